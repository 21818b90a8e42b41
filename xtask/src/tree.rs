//! A file tree in memory that can be written as an image layer: sorted, owned by root, and with a single time, so that
//! the same content gives the same bytes.

use anyhow::{Context, Result, bail};
use flate2::{Compression, GzBuilder};
use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use tar::{Archive, Builder, EntryType, Header};

/// Permission bits that are kept. No file in an image may be setuid or setgid.
const MODE_MASK: u32 = 0o777;

/// A compromise between time and size: higher levels save less than one per cent here.
const LEVEL: u32 = 6;

/// Folders that are links to folders below `usr`, as in every current Debian.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// An entry of the tree.
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
    /// An otherwise empty tree with the links, such as `lib`, that Debian's programs expect.
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

    /// Adds the entries of a package's archive that `wanted` accepts.
    ///
    /// # Errors
    /// If an entry is not a folder, file or link.
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
                // Parent folders are added with their files. Empty folders only serve the package's own scripts.
                EntryType::Directory => {}
                EntryType::Regular => {
                    let mut content = Vec::new();
                    entry.read_to_end(&mut content)?;
                    self.file(&path, mode, content);
                }
                EntryType::Symlink => self.link(&path, &target.context("a link has no target")?),
                EntryType::Link => {
                    let target = merged_path(&target.context("a link has no target")?);
                    let first = self.nodes.get(&target).cloned();
                    let (mode, node) = first.with_context(|| format!("{path} links to {target}, which is left out"))?;
                    self.put(&path, mode, node);
                }
                other => bail!("{path} is of type {other:?}, which an image cannot contain"),
            }
        }
        Ok(())
    }

    /// Paths and contents of the files that `wanted` accepts.
    pub fn files(&self, wanted: impl Fn(&str) -> bool) -> Vec<(&str, &[u8])> {
        let files = self.nodes.iter().filter_map(|(path, (_, node))| match node {
            Node::File(content) if wanted(path) => Some((path.as_str(), content.as_slice())),
            _ => None,
        });
        files.collect()
    }

    /// The tree as a tar archive.
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
            added.with_context(|| format!("cannot add {path} to a layer"))?;
        }
        builder.into_inner().context("cannot finish a layer")
    }
}

/// The path in the image of a file with this path in a package.
fn merged_path(path: &str) -> String {
    let path = path.trim_start_matches("./").trim_matches('/');
    let first = path.split('/').next().unwrap_or_default();
    if MERGED.contains(&first) { format!("usr/{path}") } else { path.to_owned() }
}

/// Compresses without a file name or time in the header.
pub fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::new(LEVEL));
    encoder.write_all(bytes).and_then(|()| encoder.finish()).context("cannot compress a layer")
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: u64 = 1_782_777_600;

    #[test]
    fn the_order_in_which_files_are_added_does_not_matter() {
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
    fn parents_come_before_their_content_and_root_owns_everything() {
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
    fn a_package_is_unpacked_below_usr_without_special_permissions() {
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
