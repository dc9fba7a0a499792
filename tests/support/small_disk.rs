//! A file system of a few megabytes, for what happens when it is full. Only root may mount one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::geteuid;

/// A file system of its own, gone when dropped.
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// `None` where we may not mount, which is said.
    pub fn mount(path: &Path, options: &str) -> Option<SmallDisk> {
        if !geteuid().is_root() {
            println!("not root: a small disk cannot be mounted, only root's runs test it");
            return None;
        }
        fs::create_dir_all(path).unwrap();
        mount(&["-t", "tmpfs", "-o", options, "tmpfs"], path);
        Some(SmallDisk { path: path.into() })
    }

    pub fn change(&self, options: &str) {
        mount(&["-o", &format!("remount,{options}")], &self.path);
    }
}

fn mount(arguments: &[&str], path: &Path) {
    let status = Command::new("mount").args(arguments).arg(path).status();
    assert!(status.unwrap().success(), "mount {arguments:?}");
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a run that hangs must not keep the test from ending.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
