//! Reads a whole file within a size limit. A person or a build tool names the file, so it may be anything.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The bytes of a file, or `None` if it does not exist.
///
/// # Errors
/// Why it cannot be read, as a clause for the end of a sentence: it is not a regular file, it is longer than
/// `bytes_max`, or the system's error.
pub(super) fn read(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, String> {
    // Opening a pipe would block, and a device never ends. The open file is checked, because its name may refer to
    // another by now.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(opened) => File::from(opened),
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(std::io::Error::from(errno).kind().to_string()),
    };
    if !opened.metadata().map_err(|error| base::error::reason(&error))?.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    opened.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| base::error::reason(&error))?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!("it is longer than {bytes_max} bytes"));
    }
    Ok(Some(bytes))
}
