//! POSIX access control lists: converts between Linux's extended attribute and the text that `tar` stores.
//!
//! The text has numeric IDs instead of names, so that it means the same on another machine:
//! `user::rw-,user:1000:r--,mask::r--`. GNU tar, star and bsdtar read it. GNU tar writes names; like `tar`, this module
//! looks them up among this machine's accounts.

use std::collections::HashMap;
use std::sync::LazyLock;

/// The attribute that holds the access rights to an entry.
pub(super) const ACCESS: &str = "system.posix_acl_access";

/// The attribute that holds the access rights that new entries of a folder inherit.
pub(super) const DEFAULT: &str = "system.posix_acl_default";

/// The only version that exists. Source: `linux/posix_acl_xattr.h`.
const VERSION: u32 = 2;

/// The ID in entries that name no account.
const NO_ID: u32 = u32::MAX;

/// The kernel's tags, their names in text, and whether they have an ID.
const TAGS: [(u16, &str, bool); 6] = [
    (0x01, "user", false),
    (0x02, "user", true),
    (0x04, "group", false),
    (0x08, "group", true),
    (0x10, "mask", false),
    (0x20, "other", false),
];

/// This machine's accounts: IDs by name.
static USERS: LazyLock<HashMap<String, u32>> = LazyLock::new(|| accounts("/etc/passwd"));
static GROUPS: LazyLock<HashMap<String, u32>> = LazyLock::new(|| accounts("/etc/group"));

/// Reads a passwd or group file. Both have the name in the first field and the ID in the third.
fn accounts(file: &str) -> HashMap<String, u32> {
    let text = std::fs::read(file).unwrap_or_default();
    let account = |line: &str| {
        let mut fields = line.split(':');
        Some((fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?))
    };
    String::from_utf8_lossy(&text).lines().filter_map(account).collect()
}

/// A list as text; `None` if the kernel's bytes are in an unknown format.
pub(super) fn to_text(bytes: &[u8]) -> Option<String> {
    let (version, entries) = bytes.split_first_chunk()?;
    let (entries, []) = entries.as_chunks::<8>() else { return None };
    if u32::from_le_bytes(*version) != VERSION || entries.is_empty() {
        return None;
    }
    let text = |[tag_low, tag_high, rights, _, id @ ..]: &[u8; 8]| {
        let tag = u16::from_le_bytes([*tag_low, *tag_high]);
        let (_, name, has_id) = TAGS.iter().find(|(known, ..)| *known == tag)?;
        let id = if *has_id { u32::from_le_bytes(*id).to_string() } else { String::new() };
        let right = |bit: u8, letter| if rights & bit == 0 { '-' } else { letter };
        Some(format!("{name}:{id}:{}{}{}", right(4, 'r'), right(2, 'w'), right(1, 'x')))
    };
    entries.iter().map(text).collect::<Option<Vec<_>>>().map(|texts| texts.join(","))
}

/// The owning group's rights in a list, limited by the mask.
pub(super) fn group_rights(bytes: &[u8]) -> Option<u32> {
    let (entries, _) = bytes.get(4..)?.as_chunks::<8>();
    let rights =
        |tag: u8| entries.iter().find(|[low, high, ..]| (*low, *high) == (tag, 0)).map(|entry| u32::from(entry[2]));
    rights(0x04).map(|group| group & rights(0x10).unwrap_or(0o7))
}

/// Why an entry is dropped: this machine does not have its account.
const UNKNOWN: &str = "names an account that this machine does not have";

/// Converts the text of any `tar` to the kernel's format. Also returns what was dropped from the list, if anything.
///
/// # Errors
/// Why the text is not a list, as the end of a sentence.
pub(super) fn from_text(text: &str) -> Result<(Vec<u8>, Option<&'static str>), &'static str> {
    let lines = text.split(['\n', ',']).map(|line| line.split('#').next().unwrap_or_default().trim());
    let (mut entries, mut loss) = (Vec::new(), None);
    for line in lines.filter(|line| !line.is_empty()) {
        match entry(line) {
            Err(UNKNOWN) => loss = Some(UNKNOWN),
            entry => entries.push(entry?),
        }
    }
    // The kernel accepts entries in this order only.
    entries.sort_unstable();
    if entries.is_empty() {
        return Err(loss.unwrap_or("is empty"));
    }
    let mut bytes = VERSION.to_le_bytes().to_vec();
    for (tag, id, rights) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&rights.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    Ok((bytes, loss))
}

/// One entry: `tag:who:rights`. star appends the account's ID.
fn entry(line: &str) -> Result<(u16, u32, u16), &'static str> {
    const BROKEN: &str = "has an invalid entry";
    let mut fields = line.split(':').map(str::trim);
    let (Some(name), Some(who), Some(rights), number) = (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(BROKEN);
    };
    let has_id = !who.is_empty();
    let short = |known: &str| known == name || (name.len() == 1 && known.starts_with(name));
    let (tag, ..) = TAGS.iter().find(|(_, known, with)| short(known) && *with == has_id).ok_or(BROKEN)?;
    let id = match (has_id, who.parse()) {
        (false, _) => NO_ID,
        (true, Ok(id)) => id,
        (true, Err(_)) => {
            let accounts = if name.starts_with('g') { &GROUPS } else { &USERS };
            let number = number.and_then(|n| n.parse().ok()).or_else(|| accounts.get(who).copied());
            number.ok_or(UNKNOWN)?
        }
    };
    let right = |rights, letter| match letter {
        'r' => Ok(rights | 4),
        'w' => Ok(rights | 2),
        'x' => Ok(rights | 1),
        '-' => Ok(rights),
        _ => Err(BROKEN),
    };
    Ok((*tag, id, rights.chars().try_fold(0, right)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<u8> {
        from_text(text).unwrap().0
    }

    #[test]
    fn a_list_survives_conversion_to_text_and_back() {
        let text = "user::rwx,user:33:r-x,user:1000:---,group::r--,group:4294967294:-w-,mask::r-x,other::--x";
        let bytes = list(text);
        assert_eq!(bytes.len(), 4 + 7 * 8);
        assert_eq!(to_text(&bytes).unwrap(), text);
        // As GNU tar and star write them.
        let other =
            "u::rwx\nuser:1000:---\nuser:www-data:r-x:33\ngroup::r--\ng:4294967294:-w-  # odd\nm::r-x\no::--x\n";
        assert_eq!(list(other), bytes);
        assert_eq!(list("user:root:r--,group:root:r-x"), list("user:0:r--,group:0:r-x"));
        let (partly, loss) = from_text("user::rw-,user:no such account:rwx,group::r--,mask::rwx,other::---").unwrap();
        assert_eq!((partly, loss), (list("user::rw-,group::r--,mask::rwx,other::---"), Some(UNKNOWN)));
        assert_eq!(group_rights(&list("user::rwx,group::r-x,group:7:rwx,mask::rw-,other::---")), Some(4));
    }

    #[test]
    fn an_invalid_list_is_rejected() {
        for text in [
            "",
            "#",
            "user",
            "user::rwz",
            "mask:5:rwx",
            "owner::rwx",
            "user:no such account:rwx",
            "group:no such account:rwx",
            ":::",
            "user::rwx,x",
        ] {
            assert!(from_text(text).is_err(), "{text}");
        }
        for bytes in [&[][..], &[2, 0, 0, 0], &[3, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255], &[2, 0, 0, 0, 1, 0, 7]] {
            assert_eq!(to_text(bytes), None);
        }
        assert_eq!(to_text(&[2, 0, 0, 0, 3, 0, 7, 0, 0, 0, 0, 0]), None, "unknown tag");
    }
}
