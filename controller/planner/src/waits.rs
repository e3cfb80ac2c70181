//! Why a planned move does not start at once, as sentences.

use evenkeel_crds::reason::{Cause, Reason};

use crate::explain::{list, refusal, span, who};
use crate::fit::Refusal;
use crate::schedule::{Block, Simulation};

/// What the job waits for.
pub(crate) fn cause(world: &Simulation<'_, '_, '_>, index: usize, block: Block) -> Cause {
    let job = &world.jobs[index];
    let view = world.board.view;
    let guest = &view.guest(job.ask.guest).name;
    let source = view.host(job.source);
    let target = view.host(job.target);
    match block {
        Block::Rest => match view.rest(job.ask.guest) {
            Some(rest) => Cause::new(
                Reason::BackingOff,
                format!(
                    "{guest} rests {} more after {}",
                    span(rest.until.saturating_sub(view.now)),
                    rest.cause
                ),
            )
            .hint(rest.cause.hint.clone()),
            None => Cause::new(
                Reason::Waiting,
                format!(
                    "{guest} goes to {} for a while once other moves have ended",
                    target.name
                ),
            ),
        },
        Block::Turn => {
            let before = job.after.map_or(job, |after| &world.jobs[after]);
            let message = if before.ask.guest == job.ask.guest {
                format!(
                    "{guest} comes to {} first and goes on to {} from there",
                    source.name, target.name
                )
            } else {
                format!(
                    "{guest} waits for {} to be on {}: they trade places one after the other",
                    view.guest(before.ask.guest).name,
                    view.host(before.target).name
                )
            };
            Cause::new(Reason::Waiting, message)
        }
        Block::Room(refused) => {
            let mut cause = refusal(&world.board, &job.fixed(), job.target, refused);
            if let Refusal::Rule { .. } = refused {
                cause.message = format!("{}: it waits until that is over", cause.message);
                return cause;
            }
            let leaving: Vec<&str> = world
                .leaving(job.target)
                .into_iter()
                .map(|id| view.guest(id).name.as_str())
                .collect();
            cause.message = format!(
                "{}; it waits for {} to leave {}",
                cause.message,
                list(&leaving),
                target.name
            );
            cause.hint(format!("it starts when there is room on {}", target.name))
        }
        Block::Outbound => Cause::new(
            Reason::SlotsTaken,
            format!(
                "{} of {} moves from {} are under way: {guest} waits for one of them to end",
                world.traffic.outbound[job.source.at()],
                source.max_outbound,
                source.name
            ),
        ),
        Block::Inbound => Cause::new(
            Reason::SlotsTaken,
            format!(
                "{} of {} moves to {} are under way: {guest} waits for one of them to end",
                world.traffic.inbound[job.target.at()],
                target.max_inbound,
                target.name
            ),
        ),
        Block::Fleet(most) => Cause::new(
            Reason::ParallelLimit,
            format!(
                "{} of {most} moves of the whole fleet are under way: {guest} waits for one of them to end",
                world.traffic.under_way
            ),
        )
        .hint("raise `parallel` of the Fleet, or its `bandwidth`"),
        Block::Parallel(limit) => Cause::new(
            Reason::ParallelLimit,
            format!(
                "{} of {} moves of {} are under way: {guest} on {} waits for one of them to end",
                world.parallel[limit],
                world.limits[limit].parallel,
                who(world.limits[limit].by),
                source.name
            ),
        ),
    }
}
