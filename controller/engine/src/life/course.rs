//! Whether a copy converges: predicted before it begins, judged while it runs. Pure.
//!
//! Bytes left of memory are a sawtooth; they tell something only where an iteration over memory ends, which is what is
//! compared here.

use std::{collections::VecDeque, time::Duration};

use evenkeel_crds::{
    kinds::profile::{Budget, Convergence},
    names::HostName,
    quantity::Bytes,
    reason::{Cause, Reason},
    shared::Answer,
};

use crate::port::JobFacts;

/// A copy that takes no longer than this is not worth a prediction.
pub(crate) const WORTH_PREDICTING: Duration = Duration::from_secs(30);
/// As little as this has to be left of what was left before, or nothing was gained.
const GAIN: f64 = 0.96;
/// Iterations that have to be seen before anything is said of them.
const ITERATIONS: usize = 3;
/// The same where the guest can be slowed down, which QEMU does after two in vain, one step at a time.
const ITERATIONS_HELPED: usize = 5;

/// What is known of a copy's course.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Course {
    /// Whether it converges.
    pub(crate) answer: Answer,
    pub(crate) cause: Cause,
}

impl Course {
    pub(crate) fn converges(sentence: impl Into<String>) -> Self {
        Self {
            answer: Answer::True,
            cause: Cause::new(Reason::AsExpected, sentence),
        }
    }

    /// All that is left follows after the switch.
    pub(crate) fn follows(why: &Cause) -> Self {
        Self {
            answer: Answer::True,
            cause: Cause::new(
                Reason::PostCopy,
                format!("switched to post-copy: {}", why.message),
            ),
        }
    }

    /// Somebody paused the guest at the source in mid-copy, and libvirt forgets that.
    pub(crate) fn held(source: &HostName, target: &HostName) -> Self {
        Self {
            answer: Answer::True,
            cause: Cause::new(
                Reason::GuestPaused,
                format!(
                    "somebody paused the guest on {source} while it is copied; libvirt lets it run once it is on {target}, \
                     or when the copy ends"
                ),
            ),
        }
    }

    pub(crate) fn diverges(sentence: impl Into<String>) -> Self {
        Self {
            answer: Answer::False,
            cause: Cause::new(Reason::NotConverging, sentence),
        }
    }
}

/// How long a copy of so many bytes takes at that rate per second.
pub(crate) fn duration(bytes: Bytes, rate: Bytes) -> Duration {
    Duration::from_secs_f64((bytes.0 as f64 / rate.0.max(1) as f64).min(1e9))
}

/// What is to be expected where the guest writes so much to its memory per second and the way carries that rate.
pub(crate) fn predict(dirtying: Bytes, rate: Bytes, help: &[Convergence]) -> Course {
    let figures = format!(
        "it writes {} to its memory per second, and {} are carried",
        dirtying.human(),
        rate.human()
    );
    if dirtying < rate {
        return Course::converges(figures);
    }
    let help = match help {
        [] => "no help is declared".to_owned(),
        some => format!("what helps: {}", words(some)),
    };
    Course::diverges(format!("it is not expected to converge: {figures}; {help}"))
}

fn words(help: &[Convergence]) -> String {
    let word = |help: &Convergence| match help {
        Convergence::AutoConverge => "AutoConverge",
        Convergence::PostCopy => "PostCopy",
    };
    let words: Vec<&str> = help.iter().map(word).collect();
    words.join(", ")
}

/// Why a phase of the copy has taken longer than its budget allows, if it has. `size` is what there is to copy in it.
pub(crate) fn over_budget(
    budget: &Budget,
    phase: &str,
    size: Bytes,
    left: Bytes,
    took: Duration,
) -> Option<Cause> {
    let gib = (size.0 as f64 / (1u64 << 30) as f64).max(1.0);
    let allowed = budget.per_gib.0.mul_f64(gib) + budget.stall.0;
    (took >= allowed).then(|| {
        Cause::new(
            Reason::NotConverging,
            format!(
                "{} of {phase} are still to be copied after {} s, more than {} s allow for {}",
                left.human(),
                took.as_secs(),
                allowed.as_secs(),
                size.human()
            ),
        )
    })
}

/// Judges the memory phase.
#[derive(Debug)]
pub(crate) struct Judge {
    stall: Duration,
    /// How many iterations have to be seen.
    least: usize,
    /// The iteration seen last.
    iteration: u64,
    /// Percent by which the guest is slowed down.
    throttle: u8,
    /// Iterations seen since help last changed anything: when each began and what was left then, those younger than
    /// `stall` only.
    recent: VecDeque<(Duration, u64)>,
    /// The least that was left at the beginning of an older one.
    lowest: Option<u64>,
    /// Iterations since help last changed anything.
    seen: usize,
}

/// What a sample says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// Nothing new.
    Nothing,
    /// The guest has been slowed down by more than before.
    Slowed,
    /// Nothing is gained any more.
    Stalled,
}

impl Judge {
    pub(crate) fn new(stall: Duration, slows_down: bool) -> Self {
        Self {
            stall,
            least: if slows_down {
                ITERATIONS_HELPED
            } else {
                ITERATIONS
            },
            iteration: 0,
            throttle: 0,
            recent: VecDeque::new(),
            lowest: None,
            seen: 0,
        }
    }

    /// Takes a sample, so long after the first.
    pub(crate) fn sample(&mut self, at: Duration, job: &JobFacts) -> Word {
        if job.memory_total.0 == 0 {
            return Word::Nothing;
        }
        if job.throttle > self.throttle {
            self.throttle = job.throttle;
            self.recent.clear();
            (self.lowest, self.seen) = (None, 0);
            return Word::Slowed;
        }
        if job.iteration <= self.iteration {
            return Word::Nothing;
        }
        self.iteration = job.iteration;
        self.seen += 1;
        while let Some(&(then, left)) = self.recent.front()
            && at.saturating_sub(then) >= self.stall
        {
            self.lowest = Some(self.lowest.map_or(left, |lowest| lowest.min(left)));
            self.recent.pop_front();
        }
        self.recent.push_back((at, job.memory_left.0));
        match self.lowest {
            Some(lowest)
                if self.seen >= self.least && job.memory_left.0 as f64 >= GAIN * lowest as f64 =>
            {
                Word::Stalled
            }
            _ => Word::Nothing,
        }
    }

    /// The course of a guest that was slowed down.
    pub(crate) fn slowed() -> Course {
        Course::diverges("it writes faster than is carried; AutoConverge slows its CPUs down")
    }

    /// Why a stalled copy is given up, or switched to post-copy.
    pub(crate) fn given_up(&self, left: Bytes, slows_down: bool) -> Cause {
        let tried = match (slows_down, self.throttle) {
            (false, _) => "nothing slows it down".to_owned(),
            (true, 0) => "AutoConverge changed nothing".to_owned(),
            (true, percent) => {
                format!("AutoConverge has slowed its CPUs down by {percent} percent")
            }
        };
        Cause::new(
            Reason::NotConverging,
            format!(
                "each pass over memory leaves {} to the next, no less than {} s before; {tried}",
                left.human(),
                self.stall.as_secs()
            ),
        )
    }
}

#[cfg(test)]
mod tests;
