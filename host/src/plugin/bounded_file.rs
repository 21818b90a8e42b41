//! Files that a person or a builder names, read whole within a limit. They may be anything.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The bytes of a file; none where there is none.
///
/// # Errors
/// Why it cannot be read, as the end of a sentence: it is no file, longer than so many bytes, or what the system says.
pub(super) fn read(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, String> {
    // A pipe would be waited for, and a device never ends.
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.kind().to_string()),
        Ok(meta) if !meta.is_file() => return Err("it is no file".to_owned()),
        Ok(_) => {}
    }
    let mut bytes = Vec::new();
    let opened = File::open(path).map_err(|error| error.kind().to_string())?;
    opened.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| error.kind().to_string())?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!("it is longer than {bytes_max} bytes"));
    }
    Ok(Some(bytes))
}
