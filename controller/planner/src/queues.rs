//! Which jobs wait for what, so that an event looks only at those that it may let start.

use crate::jobs::Job;
use crate::model::HostId;
use crate::view::View;

/// In the place of a limit: none.
const NONE: usize = usize::MAX;

/// What an event frees.
#[derive(Debug, Default)]
pub(crate) struct Freed {
    /// Slots, links and room at these hosts.
    pub(crate) hosts: Vec<HostId>,
    /// Limits that were reached and are no longer.
    pub(crate) limits: Vec<usize>,
    /// Jobs that were to come after one that has ended.
    pub(crate) jobs: Vec<usize>,
    /// Rules under which something has left a domain.
    pub(crate) rules: Vec<usize>,
}

/// The jobs that wait, each list in the order in which they are asked.
pub(crate) struct Queues {
    waits: Vec<bool>,
    waiting: usize,
    from: Vec<Vec<usize>>,
    to: Vec<Vec<usize>>,
    /// For each limit its jobs, that of the fleet last; those that have started are dropped now and then.
    under: Vec<Vec<usize>>,
    /// For each rule the jobs of its guests.
    kin: Vec<Vec<usize>>,
    /// Times at which jobs have rested, and the jobs; the next last.
    rests: Vec<(u64, usize)>,
}

impl Queues {
    pub(crate) fn new<L: Iterator<Item = usize>>(
        view: &View<'_>,
        jobs: &[Job<'_>],
        limits: usize,
        limits_of: impl Fn(&Job<'_>) -> L,
    ) -> Self {
        let hosts = view.fleet.hosts.len();
        let mut queues = Self {
            waits: vec![true; jobs.len()],
            waiting: jobs.len(),
            from: vec![Vec::new(); hosts],
            to: vec![Vec::new(); hosts],
            under: vec![Vec::new(); limits],
            kin: vec![Vec::new(); view.rules.all.len()],
            rests: Vec::new(),
        };
        for (index, job) in jobs.iter().enumerate() {
            queues.from[job.source.at()].push(index);
            queues.to[job.target.at()].push(index);
            for limit in limits_of(job) {
                queues.under[limit].push(index);
            }
            for (rule, _) in view.rules.of(job.ask.guest) {
                queues.kin[rule].push(index);
            }
            if job.rest > 0 {
                queues.rests.push((job.rest, index));
            }
        }
        queues.rests.sort_unstable_by(|one, other| other.cmp(one));
        queues
    }

    /// For each limit how many of its jobs the slots of their hosts would let go at once.
    pub(crate) fn at_once(&self, view: &View<'_>, jobs: &[Job<'_>]) -> Vec<usize> {
        let mut taken: Vec<[(usize, u32); 2]> = vec![[(NONE, 0); 2]; self.from.len()];
        let under = self.under.iter().enumerate();
        let counts = under.map(|(limit, list)| {
            let mut counts = [0, 0];
            for job in list.iter().map(|job| &jobs[*job]) {
                let (source, target) = (job.source, job.target);
                let most = [
                    view.host(source).max_outbound,
                    view.host(target).max_inbound,
                ];
                for (way, host) in [source, target].into_iter().enumerate() {
                    let (by, slots) = &mut taken[host.at()][way];
                    if *by != limit {
                        (*by, *slots) = (limit, 0);
                    }
                    if *slots < most[way] {
                        *slots += 1;
                        counts[way] += 1;
                    }
                }
            }
            counts[0].min(counts[1])
        });
        counts.collect()
    }

    /// Whether the job waits.
    pub(crate) fn waits(&self, job: usize) -> bool {
        self.waits[job]
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// All that wait.
    pub(crate) fn all_waiting(&self) -> Vec<usize> {
        (0..self.waits.len())
            .filter(|job| self.waits[*job])
            .collect()
    }

    /// The job waits no longer.
    pub(crate) fn started(&mut self, job: usize, source: HostId, target: HostId) {
        self.waits[job] = false;
        self.waiting -= 1;
        let waits = &self.waits;
        // Kept in order; what has started is dropped before it is half of a list.
        for list in [&mut self.from[source.at()], &mut self.to[target.at()]] {
            list.retain(|other| waits[*other]);
        }
    }

    /// The next time at which a job that waits has rested.
    pub(crate) fn next_rest(&self, time: u64) -> Option<u64> {
        let rest = self.rests.last().map(|(rest, _)| *rest);
        rest.filter(|rest| *rest > time)
    }

    /// Takes the jobs that have rested by now.
    pub(crate) fn rested(&mut self, time: u64) -> Vec<usize> {
        let mut rested = Vec::new();
        while let Some((rest, job)) = self.rests.last().copied()
            && rest <= time
        {
            self.rests.pop();
            rested.push(job);
        }
        rested
    }

    /// Adds the jobs that wait to leave the host.
    pub(crate) fn from(&self, host: HostId, found: &mut Vec<usize>) {
        found.extend(&self.from[host.at()]);
    }

    /// Adds the jobs that wait to go to the host.
    pub(crate) fn to(&self, host: HostId, found: &mut Vec<usize>) {
        found.extend(&self.to[host.at()]);
    }

    /// Adds the jobs under the rule that wait.
    pub(crate) fn kin(&self, rule: usize, found: &mut Vec<usize>) {
        let kin = self.kin[rule].iter();
        found.extend(kin.filter(|job| self.waits[**job]));
    }

    /// Goes on in the limit's list to a job that waits, from this place on. False where there is none.
    pub(crate) fn seek(&mut self, limit: usize, place: &mut usize) -> bool {
        let list = &mut self.under[limit];
        if *place == 0 {
            let gone = list.iter().take_while(|job| !self.waits[**job]).count();
            if gone > list.len() / 2 {
                list.drain(..gone);
            }
        }
        while list.get(*place).is_some_and(|job| !self.waits[*job]) {
            *place += 1;
        }
        *place < list.len()
    }

    /// The job at this place of the limit's list.
    pub(crate) fn under(&self, limit: usize, place: usize) -> usize {
        self.under[limit][place]
    }
}
