//! Inputs that are kept: nasty ones, made by hand, and what fuzzing has found. Each fuzz test reads those of its kind first.
// Not every test needs both.
#![allow(clippy::unwrap_used, dead_code)]

use std::{fs, path::Path};

/// The files in a folder of the corpus whose names begin so: their names and what is in them.
pub fn files(folder: &str, prefix: &str) -> Vec<(String, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus");
    let listed = fs::read_dir(root.join(folder)).unwrap();
    let mut files: Vec<_> = listed
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read(path).unwrap())
        })
        .filter(|(name, _)| name.starts_with(prefix))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{folder}: nothing is named {prefix}*");
    files
}

/// The same as libvirt's client hands them out: whatever is no UTF-8 is replaced.
pub fn texts(folder: &str, prefix: &str) -> Vec<(String, String)> {
    let files = files(folder, prefix).into_iter();
    files
        .map(|(name, bytes)| (name, String::from_utf8_lossy(&bytes).into_owned()))
        .collect()
}
