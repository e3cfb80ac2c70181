//! The one brain: which guest goes where, when, and why not.
//!
//! [`plan`] is a pure function of the fleet, the wishes, what is in flight and the time. It knows no clock, no
//! network, no hypervisor and no Kubernetes; the same input gives the same plan, to the last word.
//!
//! The way of a plan: `wishes` turns what is asked into asks and refuses what can't be tried; `choose` gives each ask
//! a target on a `board` of what is held, `targeted`, `repair` and `chains` help where room is short; `places` sends
//! guests where the `rules` of placements want them; `schedule` lets the chosen moves run on virtual time, so that
//! slots, links (`traffic`) and room are right at every instant; `order` breaks rings of moves that wait for each other by guests that
//! stop over (`bounces`, `shuffle`), and `rings` names those that nothing breaks; `improve` looks for better ways where hosts
//! are nearly full (`squeeze`), as long as the `effort` lasts; `balance` levels what is uneven after all that, by the search
//! in `level`, and `headroom` keeps room to empty any one domain; `explain` says it in sentences, `verdicts` what is known of
//! all that are left over, and `short` proves it. Whether a guest may go to a host is decided in one place, `fit`, for
//! [`plan`], for [`admit`] and for [`drainable`].

#![forbid(unsafe_code)]

mod admit;
mod balance;
mod board;
mod bounces;
mod bytes;
mod capacity;
mod chains;
mod choose;
mod counts;
mod drainable;
mod effort;
mod explain;
mod fit;
mod headroom;
mod improve;
mod jobs;
mod lanes;
mod level;
mod looked;
pub mod model;
mod order;
mod places;
mod plan;
mod pools;
mod queues;
mod repair;
mod rings;
mod rules;
mod schedule;
mod shelf;
mod short;
mod shuffle;
mod squeeze;
mod targeted;
mod traffic;
mod verdicts;
mod view;
mod waits;
mod wishes;

pub use admit::admit;
pub use drainable::drainable;
pub use looked::Looked;
pub use model::*;
pub use plan::plan;
