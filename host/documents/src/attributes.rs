//! Extended attributes and access control lists: what an archive keeps of them, as PAX records that GNU tar, star and bsdtar
//! know (`SCHILY.xattr.*`, `SCHILY.acl.*`), and how an entry gets them back.
//!
//! Kept are a person's or a program's own (`user.*`) and POSIX access control lists. Labels of a security module, capabilities of
//! programs and lists of NFS version 4 belong to one machine or one server; they are not kept, and the record has their names.

use super::acl;
use base::error::reason;
use rustix::buffer::spare_capacity;
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use std::io;
use std::os::fd::AsFd;

/// Bytes of names and values of one entry. Linux file systems keep at most 64 KiB of names, and of each value; most keep 4 KiB in all.
const BYTES_MAX: usize = 256 << 10;

/// What a name begins with that is kept.
const OWN: &[u8] = b"user.";

/// What a PAX record's key begins with that holds an attribute.
const RECORD: &[u8] = b"SCHILY.xattr.";

const RECORD_ACCESS: &[u8] = b"SCHILY.acl.access";
const RECORD_DEFAULT: &[u8] = b"SCHILY.acl.default";

/// What is kept beside mode, owner and times.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    /// Names and values, as the kernel has them, in the order of their names.
    kept: Vec<(Vec<u8>, Vec<u8>)>,
    /// What could not be read or restored of them: a phrase each.
    pub(super) lacks: Vec<String>,
    /// The names of those that are not kept.
    pub(super) foreign: Vec<String>,
}

impl Attributes {
    /// Those of an open file or folder.
    pub(super) fn of(file: impl AsFd) -> Self {
        let mut found = Self::default();
        if let Err(error) = found.read(file) {
            found.lack(format!("its extended attributes cannot be read: {}", reason(&error)));
        }
        found
    }

    fn read(&mut self, file: impl AsFd) -> io::Result<()> {
        let mut names = Vec::new();
        // Most files have none, and then this is the one call.
        let length = match rustix::fs::flistxattr_query(&file) {
            Ok(0) | Err(Errno::NOTSUP) => return Ok(()),
            Ok(length) => length,
            Err(error) => return Err(error.into()),
        };
        names.reserve(length.min(BYTES_MAX));
        rustix::fs::flistxattr(&file, spare_capacity(&mut names))?;
        let mut bytes = names.len();
        let mut names: Vec<&[u8]> = names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
        names.sort_unstable();
        for name in names {
            let is_list = name == acl::ACCESS.as_bytes() || name == acl::DEFAULT.as_bytes();
            if !is_list && !name.starts_with(OWN) {
                self.foreign.push(super::path::shown(name));
                continue;
            }
            let length = rustix::fs::fgetxattr_query(&file, name)?;
            bytes += length;
            if bytes > BYTES_MAX {
                self.lack(format!("its attributes have more than {BYTES_MAX} bytes, which no archive keeps"));
                return Ok(());
            }
            let mut value = Vec::with_capacity(length);
            if length > 0 {
                rustix::fs::fgetxattr(&file, name, spare_capacity(&mut value))?;
            }
            if is_list && acl::to_text(&value).is_none() {
                self.lack("its access control list is of a kind that this program does not know".to_owned());
                continue;
            }
            self.kept.push((name.to_vec(), value));
        }
        Ok(())
    }

    fn lack(&mut self, what: String) {
        if !self.lacks.contains(&what) {
            self.lacks.push(what);
        }
    }

    /// Whether there is nothing to restore.
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.lacks.is_empty()
    }

    /// Bytes of names and values.
    pub(super) fn bytes(&self) -> usize {
        self.kept.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// Its PAX records: key and value.
    pub(super) fn records(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        self.kept.iter().map(|(name, value)| {
            let text = |value: &[u8]| acl::to_text(value).unwrap_or_default().into_bytes();
            match name.as_slice() {
                name if name == acl::ACCESS.as_bytes() => (RECORD_ACCESS.to_vec(), text(value)),
                name if name == acl::DEFAULT.as_bytes() => (RECORD_DEFAULT.to_vec(), text(value)),
                name => ([RECORD, &escaped(name)].concat(), value.clone()),
            }
        })
    }

    /// Takes a PAX record, whoever wrote it, if it is one of these.
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) {
        let list = match key {
            RECORD_ACCESS => Some(acl::ACCESS),
            RECORD_DEFAULT => Some(acl::DEFAULT),
            _ => None,
        };
        if let Some(name) = list {
            match acl::from_text(&String::from_utf8_lossy(value)) {
                Ok((bytes, lack)) => {
                    self.keep(name.as_bytes().to_vec(), bytes);
                    if let Some(lack) = lack {
                        self.lack(format!("its access control list {lack}"));
                    }
                }
                Err(why) => self.lack(format!("its access control list {why}")),
            }
        } else if let Some(name) = key.strip_prefix(RECORD) {
            let name = unescaped(name);
            if name.starts_with(OWN) && !name.contains(&0) {
                self.keep(name, value.to_vec());
            }
        }
    }

    /// Of a record that comes twice the later one counts.
    fn keep(&mut self, name: Vec<u8>, value: Vec<u8>) {
        self.kept.retain(|(known, _)| *known != name);
        self.kept.push((name, value));
    }

    /// Gives a person's and a program's own ones to a new file or folder, which its mode may forbid later on.
    pub(super) fn restore_own(&mut self, file: impl AsFd) {
        let lost = self.restore(file, |name| name.starts_with(OWN));
        self.lacks
            .extend(lost.map(|error| format!("its extended attributes are not restored: {}", reason(&error.into()))));
    }

    /// Gives a file or folder its access control lists, after its mode, which is a part of them. Where it gets none, the answer is what its
    /// group may do by the list: in its mode stands what anybody of the list may do.
    pub(super) fn restore_lists(&mut self, file: impl AsFd) -> Option<u32> {
        let error = self.restore(file, |name| !name.starts_with(OWN))?;
        self.lack(format!("its access control list is not restored: {}", reason(&error.into())));
        let access = self.kept.iter().find(|(name, _)| name == acl::ACCESS.as_bytes());
        access.and_then(|(_, bytes)| acl::group_rights(bytes))
    }

    fn restore(&self, file: impl AsFd, fits: impl Fn(&[u8]) -> bool) -> Option<Errno> {
        let mut own = self.kept.iter().filter(|(name, _)| fits(name));
        own.find_map(|(name, value)| rustix::fs::fsetxattr(&file, name.as_slice(), value, XattrFlags::empty()).err())
    }

    /// As bytes, to be remembered on disk.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in self.kept.iter().flat_map(|(name, value)| [name, value]) {
            bytes.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
            bytes.extend_from_slice(part);
        }
        bytes
    }

    /// From what [`Self::to_bytes`] gave.
    pub(super) fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let part = |bytes: &mut &[u8]| {
            let (length, rest) = bytes.split_first_chunk()?;
            let (part, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            *bytes = rest;
            Some(part.to_vec())
        };
        let mut kept = Vec::new();
        while !bytes.is_empty() {
            kept.push((part(&mut bytes)?, part(&mut bytes)?));
        }
        Some(Self { kept, ..Self::default() })
    }
}

/// A name in a key, which ends at its first `=`: as GNU tar writes it.
fn escaped(name: &[u8]) -> Vec<u8> {
    let byte = |byte: &u8| match byte {
        b'%' => b"%25".to_vec(),
        b'=' => b"%3D".to_vec(),
        byte => vec![*byte],
    };
    name.iter().flat_map(byte).collect()
}

fn unescaped(mut name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    while let Some((first, rest)) = name.split_first() {
        let (byte, rest) = match (first, rest) {
            (b'%', [b'2', b'5', rest @ ..]) => (b'%', rest),
            (b'%', [b'3', b'D' | b'd', rest @ ..]) => (b'=', rest),
            (first, rest) => (*first, rest),
        };
        plain.push(byte);
        name = rest;
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back_from_their_records_and_from_bytes() {
        let list = acl::from_text("user::rw-,user:33:r--,group::r--,mask::r--,other::---").unwrap().0;
        let kept = vec![
            (acl::ACCESS.as_bytes().to_vec(), list),
            (b"user.a=b%c".to_vec(), b"\0line\nbreak=\xff".to_vec()),
            (b"user.empty".to_vec(), Vec::new()),
        ];
        let attributes = Attributes { kept, ..Attributes::default() };
        let mut again = Attributes::default();
        for (key, value) in attributes.records() {
            assert!(!key.starts_with(b"SCHILY.xattr.") || !key.contains(&b'='));
            again.take(&key, &value);
        }
        assert_eq!(again, attributes);
        assert_eq!(Attributes::from_bytes(&attributes.to_bytes()), Some(attributes.clone()));
        assert_eq!(Attributes::from_bytes(&attributes.to_bytes()[..10]), None);
    }

    #[test]
    fn what_belongs_to_a_machine_is_not_taken_from_an_archive() {
        let mut attributes = Attributes::default();
        for name in
            ["security.capability", "security.selinux", "trusted.overlay.opaque", "system.posix_acl_access", "user"]
        {
            attributes.take(format!("SCHILY.xattr.{name}").as_bytes(), b"x");
        }
        attributes.take(b"SCHILY.xattr.user.a\0b", b"x");
        attributes.take(b"LIBARCHIVE.creationtime", b"1");
        assert!(attributes.is_empty());
        attributes.take(b"SCHILY.acl.access", b"user:no such account:rwx");
        assert_eq!(attributes.lacks, ["its access control list names an account that this machine does not have"]);
    }
}
