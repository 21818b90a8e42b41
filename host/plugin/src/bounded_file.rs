//! Files that a person or a builder names, read whole within a limit. They may be anything.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The bytes of a file; none where there is none.
///
/// # Errors
/// Why it cannot be read, as the end of a sentence: it is no file, longer than so many bytes, or what the system says.
pub(super) fn read(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, String> {
    // A pipe would be waited for, and a device never ends. What is opened is what is looked at, whatever takes its name meanwhile.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(opened) => File::from(opened),
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(std::io::Error::from(errno).kind().to_string()),
    };
    if !opened.metadata().map_err(|error| error.kind().to_string())?.is_file() {
        return Err("it is no file".to_owned());
    }
    let mut bytes = Vec::new();
    opened.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| error.kind().to_string())?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!("it is longer than {bytes_max} bytes"));
    }
    Ok(Some(bytes))
}
