//! A file tree in memory, and the layer that it becomes: sorted, owned by root, with one time for everything, so that the
//! same content gives the same bytes.

use anyhow::{Context, Result, bail};
use flate2::{Compression, GzBuilder};
use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use tar::{Archive, Builder, EntryType, Header};

/// Permissions that are kept. Nothing in an image may lend the rights of its owner.
const MODE_MASK: u32 = 0o777;

/// Time against size; higher levels gain under a per cent here.
const LEVEL: u32 = 6;

/// Folders that are links to those below `usr`, as in every Debian of today.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Folder,
    File(Vec<u8>),
    Link(String),
}

/// A file tree. Paths are relative and have no `.`.
#[derive(Debug, Default)]
pub struct Tree {
    nodes: BTreeMap<String, (u32, Node)>,
}

impl Tree {
    /// An empty tree with the links that Debian's programs are linked against.
    pub fn merged() -> Self {
        let mut tree = Self::default();
        for name in MERGED {
            tree.link(name, &format!("usr/{name}"));
            tree.folder(&format!("usr/{name}"), 0o755);
        }
        tree
    }

    /// Adds a folder.
    pub fn folder(&mut self, path: &str, mode: u32) {
        self.put(path, mode, Node::Folder);
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) {
        self.put(path, mode, Node::File(content.into()));
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.put(path, 0o777, Node::Link(target.to_owned()));
    }

    fn put(&mut self, path: &str, mode: u32, node: Node) {
        for (end, _) in path.match_indices('/') {
            self.nodes.entry(path[..end].to_owned()).or_insert((0o755, Node::Folder));
        }
        self.nodes.insert(path.to_owned(), (mode, node));
    }

    /// Adds what a package's archive holds, as far as `wanted` says.
    ///
    /// # Errors
    /// When it is no archive, or holds what an image has no use for.
    pub fn unpack(&mut self, archive: &[u8], wanted: impl Fn(&str) -> bool) -> Result<()> {
        for entry in Archive::new(Cursor::new(archive)).entries()? {
            let mut entry = entry?;
            let path = merged_path(&entry.path()?.to_string_lossy());
            if path.is_empty() || !wanted(&path) {
                continue;
            }
            let target = entry.link_name()?.map(|target| target.to_string_lossy().into_owned());
            let mode = entry.header().mode()? & MODE_MASK;
            match entry.header().entry_type() {
                // Parents are made for what is below them; an empty folder of a package serves its own scripts.
                EntryType::Directory => {}
                EntryType::Regular => {
                    let mut content = Vec::new();
                    entry.read_to_end(&mut content)?;
                    self.file(&path, mode, content);
                }
                EntryType::Symlink => self.link(&path, &target.context("a link has a target")?),
                EntryType::Link => {
                    let target = merged_path(&target.context("a link has a target")?);
                    let first = self.nodes.get(&target).cloned();
                    let (mode, node) = first.with_context(|| format!("{path} is a link to {target}, left out"))?;
                    self.put(&path, mode, node);
                }
                other => bail!("{path} is {other:?}, which has no place in an image"),
            }
        }
        Ok(())
    }

    /// Contents of the files whose path `wanted` takes, by path.
    pub fn files(&self, wanted: impl Fn(&str) -> bool) -> Vec<(&str, &[u8])> {
        let files = self.nodes.iter().filter_map(|(path, (_, node))| match node {
            Node::File(content) if wanted(path) => Some((path.as_str(), content.as_slice())),
            _ => None,
        });
        files.collect()
    }

    /// The tree as a tar archive.
    ///
    /// # Errors
    /// When a path cannot be written.
    pub fn tar(&self, epoch: u64) -> Result<Vec<u8>> {
        let mut builder = Builder::new(Vec::new());
        for (path, (mode, node)) in &self.nodes {
            let mut header = Header::new_gnu();
            header.set_mode(*mode);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(epoch);
            header.set_size(0);
            let added = match node {
                Node::Folder => {
                    header.set_entry_type(EntryType::Directory);
                    builder.append_data(&mut header, format!("{path}/"), std::io::empty())
                }
                Node::File(content) => {
                    header.set_entry_type(EntryType::Regular);
                    header.set_size(content.len() as u64);
                    builder.append_data(&mut header, path, content.as_slice())
                }
                Node::Link(target) => {
                    header.set_entry_type(EntryType::Symlink);
                    builder.append_link(&mut header, path, target)
                }
            };
            added.with_context(|| format!("cannot put {path} into a layer"))?;
        }
        builder.into_inner().context("cannot end a layer")
    }
}

/// A path of a package where it is in the image.
fn merged_path(path: &str) -> String {
    let path = path.trim_start_matches("./").trim_matches('/');
    let first = path.split('/').next().unwrap_or_default();
    if MERGED.contains(&first) { format!("usr/{path}") } else { path.to_owned() }
}

/// Compresses without a name and a time.
///
/// # Errors
/// Never, as it only writes to memory; the encoder's signature allows one.
pub fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::new(LEVEL));
    encoder.write_all(bytes).and_then(|()| encoder.finish()).context("cannot compress a layer")
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: u64 = 1_782_777_600;

    #[test]
    fn the_order_in_which_files_come_does_not_show() {
        let files = [("usr/bin/a", "1"), ("etc/b", "2"), ("usr/lib/c", "3")];
        let tar = |files: &[(&str, &str)]| {
            let mut tree = Tree::merged();
            files.iter().for_each(|(path, content)| tree.file(path, 0o644, *content));
            gzip(&tree.tar(EPOCH).expect("a layer")).expect("compressed")
        };
        let mut backwards = files;
        backwards.reverse();
        assert_eq!(tar(&files), tar(&backwards));
        assert_ne!(tar(&files), tar(&files[..2]));
    }

    #[test]
    fn parents_come_before_what_is_in_them_and_all_belongs_to_root() {
        let mut tree = Tree::merged();
        tree.file("usr/share/doc/x/copyright", 0o644, "free");
        tree.link("usr/bin/x", "../lib/x");
        let bytes = tree.tar(EPOCH).expect("a layer");
        let mut seen = Vec::new();
        for entry in Archive::new(Cursor::new(bytes)).entries().expect("an archive") {
            let entry = entry.expect("an entry");
            let header = entry.header();
            assert_eq!((header.uid().ok(), header.gid().ok(), header.mtime().ok()), (Some(0), Some(0), Some(EPOCH)));
            let path = entry.path().expect("a path").to_string_lossy().trim_end_matches('/').to_owned();
            let parent = path.rsplit_once('/').map(|(parent, _)| parent.to_owned());
            assert!(parent.is_none_or(|parent| seen.contains(&parent)), "{path}");
            seen.push(path);
        }
        assert!(seen.contains(&"usr/share/doc/x".to_owned()));
    }

    #[test]
    fn a_package_lands_below_usr_without_special_permissions() {
        let mut package = Builder::new(Vec::new());
        let mut add = |path: &str, mode: u32| {
            let mut header = Header::new_gnu();
            header.set_size(1);
            header.set_mode(mode);
            package.append_data(&mut header, path, &b"x"[..]).expect("added");
        };
        add("./lib/x86_64-linux-gnu/libc.so.6", 0o4755);
        add("./usr/share/man/x", 0o644);
        let mut tree = Tree::default();
        let archive = package.into_inner().expect("an archive");
        tree.unpack(&archive, |path| !path.contains("/man/")).expect("unpacked");
        let paths: Vec<_> = tree.nodes.iter().filter(|(_, (_, node))| *node != Node::Folder).collect();
        let node = (0o755, Node::File(b"x".to_vec()));
        assert_eq!(paths, [(&"usr/lib/x86_64-linux-gnu/libc.so.6".to_owned(), &node)]);
        assert!(Tree::default().unpack(b"no archive", |_| true).is_err());
    }
}
