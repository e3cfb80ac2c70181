//! `evenkeel apply`, run again and again.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use evenkeel_tests::{
    evenkeel::{Fleet, Run},
    lab::Lab,
};

use super::Driver;
use crate::{
    PATIENCE,
    fault::Fault,
    wish::{self, Wish},
};

/// The file that the wish is in.
const WISH: &str = "wish.yaml";
/// How long the run may take that meets the fault, and each of those after it.
const FIRST: &str = "60s";
const AGAIN: &str = "30s";

pub(super) struct Files {
    fleet: Fleet,
    run: Option<Run>,
    said: String,
}

impl Files {
    pub(super) fn new(lab: &Lab) -> Result<Self> {
        let fleet = Fleet::of(lab)?;
        for (index, host) in super::hosts(lab)?.iter().enumerate() {
            fleet.write(&format!("host-{index}.yaml"), host)?;
        }
        fleet.write("standing.yaml", &wish::standing(lab))?;
        Ok(Self {
            fleet,
            run: None,
            said: String::new(),
        })
    }
}

impl Driver for Files {
    fn begin(&mut self, wish: &Wish) -> Result<()> {
        self.said.clear();
        self.fleet.write(WISH, &wish.manifest)?;
        let run = self.fleet.start(&["apply", "--yes", "--timeout", FIRST])?;
        self.run = Some(run);
        Ok(())
    }

    fn strike(&mut self, fault: Fault, _: &Wish, _: Duration) -> Result<()> {
        let Some(run) = &self.run else { return Ok(()) };
        // It may have ended before the fault comes: then there is nobody to signal.
        match fault {
            Fault::DriverKilled => drop(run.signal("KILL")),
            Fault::Aborted => {
                drop(run.signal("INT"));
                thread::sleep(Duration::from_millis(300));
                drop(run.signal("INT"));
            }
            Fault::SecondDriver => {
                let second = self.fleet.run(&["apply", "--yes", "--timeout", "60s"])?;
                ensure!(
                    [0, 4].contains(&second.code),
                    "the second apply: {second:?}"
                );
            }
            _ => {}
        }
        Ok(())
    }

    fn has_ended(&mut self, within: Duration) -> Result<bool> {
        let Some(run) = &mut self.run else {
            return Ok(true);
        };
        let ended = run.has_ended(within)?;
        if ended {
            // Its last words are on their way.
            run.end(PATIENCE)?;
        }
        self.said = run.said();
        if ended {
            self.run = None;
        }
        Ok(ended)
    }

    fn converge(&mut self, _: &Wish) -> Result<bool> {
        let answer = self.fleet.run(&["apply", "--yes", "--timeout", AGAIN])?;
        self.said += &format!("-- exit {}\n{}{}", answer.code, answer.out, answer.err);
        Ok(answer.code == 0)
    }

    fn end(&mut self, _: &Wish) -> Result<()> {
        self.fleet.remove(WISH)
    }

    fn said(&self) -> &str {
        &self.said
    }
}
