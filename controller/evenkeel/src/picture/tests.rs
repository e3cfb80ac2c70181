//! The pictures that are checked in are what is drawn, and any names make well-formed ones.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::{
    plan::{self, Amounts, Block, Side},
    snapshot::tests::{data, golden, live, planned},
};

#[tokio::test(start_paused = true)]
async fn the_pictures_of_the_docs_are_what_is_drawn() {
    let scene = live().await;
    let svg = plan::draw(&scene.view, &planned(&scene)).svg();
    golden(&data("plan.svg"), &svg);
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/plan.svg");
    golden(&docs, &svg);
}

fn many(hosts: usize, name: &str) -> Picture {
    let amounts = |memory: u64| Amounts {
        cpu_milli: memory * 100,
        memory: memory << 30,
        disk: memory << 31,
    };
    let side = |guests: u64, other: Option<&str>| Side {
        used: amounts(guests * 3),
        guests: (0..guests)
            .map(|number| Block {
                guest: format!("{name}-{number}"),
                takes: amounts(3),
                other: other.map(str::to_owned),
            })
            .collect(),
    };
    let standings = (0..hosts).map(|index| Standing {
        name: format!("{name}{index}"),
        drained: index == 0,
        out_of_reach: index % 50 == 49,
        limit: amounts(40),
        before: side(7, (index % 5 == 0).then_some("h2")),
        after: side(index as u64 % 9, (index % 5 == 0).then_some("h2")),
    });
    let bars = (0..hosts as u64).map(|index| Bar {
        guest: format!("{name}-{index}"),
        source: format!("{name}0"),
        target: format!("{name}{}", index % 20),
        start: Duration::from_secs(index * 7),
        end: Some(Duration::from_secs(index * 7 + 40)),
        memory: (index % 2 == 0).then(|| Duration::from_secs(index * 7 + 30)),
        sort: match index % 10 {
            9 => Sort::Failed("TargetFailed".to_owned()),
            _ => Sort::Planned,
        },
    });
    Picture {
        title: name.to_owned(),
        summary: name.to_owned(),
        hosts: standings.collect(),
        bars: bars.collect(),
        faults: vec![(
            Duration::from_secs(20),
            Duration::from_secs(50),
            name.to_owned(),
        )],
    }
}

#[test]
fn a_large_fleet_is_drawn_small() {
    let svg = many(200, "host").svg();
    if let Some(file) = std::env::var_os("EVENKEEL_PICTURE") {
        std::fs::write(file, &svg).unwrap();
    }
    let tree = roxmltree::Document::parse(&svg).unwrap();
    let height: f64 = tree
        .root_element()
        .attribute("height")
        .unwrap()
        .parse()
        .unwrap();
    assert!(height < 3000.0, "{height}");
}

proptest! {
    #[test]
    fn any_name_makes_a_well_formed_picture(name in "(?s).{0,20}") {
        let svg = many(3, &name).svg();
        let tree = roxmltree::Document::parse(&svg).unwrap();
        // Nothing of a name became an element.
        let known = ["svg", "title", "desc", "style", "defs", "pattern", "rect", "text", "line"];
        for node in tree.descendants().filter(|node| node.is_element()) {
            prop_assert!(known.contains(&node.tag_name().name()));
        }
    }
}
