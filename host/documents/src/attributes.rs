//! Extended attributes and access control lists: which of them an archive keeps, and how a restore sets them again.
//! They are stored as PAX records that GNU tar, star and bsdtar read (`SCHILY.xattr.*`, `SCHILY.acl.*`).
//!
//! The archive keeps `user.*` attributes and POSIX access control lists. Security labels, file capabilities and NFS
//! version 4 access control lists belong to one machine or server. The archive does not keep them; the record lists
//! their names.

use super::acl;
use base::error::reason;
use rustix::buffer::spare_capacity;
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use std::io;
use std::os::fd::AsFd;

/// Bytes of names and values of one entry. Linux file systems store at most 64 KiB of names and 64 KiB per value; most
/// store 4 KiB in total.
const BYTES_MAX: usize = 256 << 10;

/// Prefix of the attributes that are kept.
const OWN: &[u8] = b"user.";

/// Key prefix of PAX records that hold an attribute.
const RECORD: &[u8] = b"SCHILY.xattr.";

const RECORD_ACCESS: &[u8] = b"SCHILY.acl.access";
const RECORD_DEFAULT: &[u8] = b"SCHILY.acl.default";

/// The attributes of one entry, beyond mode, owner and times.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    /// Names and values in the kernel's format, sorted by name.
    kept: Vec<(Vec<u8>, Vec<u8>)>,
    /// What could not be read or restored, one phrase each.
    pub(super) losses: Vec<String>,
    /// The names of the attributes that are not kept.
    pub(super) foreign: Vec<String>,
}

impl Attributes {
    /// Reads the attributes of an open file or folder.
    pub(super) fn read_from(file: impl AsFd) -> Self {
        let mut found = Self::default();
        if let Err(error) = found.collect(file) {
            found.add_loss(format!("its extended attributes cannot be read: {}", reason(&error)));
        }
        found
    }

    fn collect(&mut self, file: impl AsFd) -> io::Result<()> {
        let mut names = Vec::new();
        // Most files have no attributes and need only this one call.
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
                self.add_loss(format!("its attributes exceed {BYTES_MAX} bytes; the archive holds only some of them"));
                return Ok(());
            }
            let mut value = Vec::with_capacity(length);
            if length > 0 {
                rustix::fs::fgetxattr(&file, name, spare_capacity(&mut value))?;
            }
            if is_list && acl::to_text(&value).is_none() {
                self.add_loss("its access control list is in an unknown format".to_owned());
                continue;
            }
            self.kept.push((name.to_vec(), value));
        }
        Ok(())
    }

    fn add_loss(&mut self, what: String) {
        if !self.losses.contains(&what) {
            self.losses.push(what);
        }
    }

    /// Whether there is nothing to restore and nothing to report.
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.losses.is_empty()
    }

    /// Bytes of names and values.
    pub(super) fn bytes(&self) -> usize {
        self.kept.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// The PAX records that hold the attributes: key and value.
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

    /// Adds the attribute in a PAX record of any tool. Ignores other records.
    pub(super) fn add_record(&mut self, key: &[u8], value: &[u8]) {
        let list = match key {
            RECORD_ACCESS => Some(acl::ACCESS),
            RECORD_DEFAULT => Some(acl::DEFAULT),
            _ => None,
        };
        if let Some(name) = list {
            match acl::from_text(&String::from_utf8_lossy(value)) {
                Ok((bytes, loss)) => {
                    self.keep(name.as_bytes().to_vec(), bytes);
                    if let Some(loss) = loss {
                        self.add_loss(format!("its access control list {loss}"));
                    }
                }
                Err(why) => self.add_loss(format!("its access control list {why}")),
            }
        } else if let Some(name) = key.strip_prefix(RECORD) {
            let name = unescaped(name);
            if name.starts_with(OWN) && !name.contains(&0) {
                self.keep(name, value.to_vec());
            }
        }
    }

    /// Sets an attribute. If a record occurs twice, the later one counts.
    fn keep(&mut self, name: Vec<u8>, value: Vec<u8>) {
        self.kept.retain(|(known, _)| *known != name);
        self.kept.push((name, value));
    }

    /// Sets the `user.*` attributes of a new file or folder. Call this before its mode is set, which may forbid it.
    pub(super) fn restore_own(&mut self, file: impl AsFd) {
        let lost = self.restore(file, |name| name.starts_with(OWN));
        self.losses
            .extend(lost.map(|error| format!("its extended attributes are not restored: {}", reason(&error.into()))));
    }

    /// Sets the access control lists of a file or folder. Call this after its mode is set, because the mode is a part
    /// of the list. If setting a list fails, returns the group's rights according to the list: the group bits of the
    /// archived mode hold the mask, which may grant more.
    pub(super) fn restore_lists(&mut self, file: impl AsFd) -> Option<u32> {
        let error = self.restore(file, |name| !name.starts_with(OWN))?;
        self.add_loss(format!("its access control list is not restored: {}", reason(&error.into())));
        let access = self.kept.iter().find(|(name, _)| name == acl::ACCESS.as_bytes());
        access.and_then(|(_, bytes)| acl::group_rights(bytes))
    }

    fn restore(&self, file: impl AsFd, fits: impl Fn(&[u8]) -> bool) -> Option<Errno> {
        let mut own = self.kept.iter().filter(|(name, _)| fits(name));
        own.find_map(|(name, value)| rustix::fs::fsetxattr(&file, name.as_slice(), value, XattrFlags::empty()).err())
    }

    /// Serialises the attributes, for temporary files and digests.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in self.kept.iter().flat_map(|(name, value)| [name, value]) {
            bytes.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
            bytes.extend_from_slice(part);
        }
        bytes
    }

    /// The inverse of [`Self::to_bytes`]; `None` if the bytes are cut off.
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

/// Escapes a name for a key, which ends at its first `=`. GNU tar does the same.
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
            again.add_record(&key, &value);
        }
        assert_eq!(again, attributes);
        assert_eq!(Attributes::from_bytes(&attributes.to_bytes()), Some(attributes.clone()));
        assert_eq!(Attributes::from_bytes(&attributes.to_bytes()[..10]), None);
    }

    #[test]
    fn attributes_that_belong_to_one_machine_are_not_read_from_an_archive() {
        let mut attributes = Attributes::default();
        for name in
            ["security.capability", "security.selinux", "trusted.overlay.opaque", "system.posix_acl_access", "user"]
        {
            attributes.add_record(format!("SCHILY.xattr.{name}").as_bytes(), b"x");
        }
        attributes.add_record(b"SCHILY.xattr.user.a\0b", b"x");
        attributes.add_record(b"LIBARCHIVE.creationtime", b"1");
        assert!(attributes.is_empty());
        attributes.add_record(b"SCHILY.acl.access", b"user:no such account:rwx");
        assert_eq!(attributes.losses, ["its access control list names an account that this machine does not have"]);
    }
}
