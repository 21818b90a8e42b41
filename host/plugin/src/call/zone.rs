//! The host's time zones as bytes in the format that libraries read (TZif, RFC 9636).

use jiff::Timestamp;
use jiff::tz::{Dst, TimeZone};

/// The first and last second that is covered: 1900-01-01 and 2200-01-01, UTC. All snapshots lie within.
const SECONDS: (i64, i64) = (-2_208_988_800, 7_258_118_400);

/// Most transitions that are written. Morocco, with four a year, has 1,200 in three centuries.
const TRANSITIONS_MAX: usize = 4_000;

/// Types of local time that one file can number.
const TYPES_MAX: usize = 256;

/// A type of local time: seconds east of UTC, and whether that is daylight saving time.
type Local = (i32, bool);

/// A zone by its name; empty if the host does not know it.
pub(super) fn tzif(name: &str) -> Vec<u8> {
    TimeZone::get(name).map(|zone| encoded(&zone)).unwrap_or_default()
}

fn encoded(zone: &TimeZone) -> Vec<u8> {
    let first = Timestamp::from_second(SECONDS.0).unwrap_or(Timestamp::MIN);
    let before = zone.to_offset_info(first);
    let mut types: Vec<Local> = vec![(before.offset().seconds(), before.dst() == Dst::Yes)];
    let mut transitions: Vec<(i64, u8)> = Vec::new();
    for change in
        zone.following(first).take(TRANSITIONS_MAX).take_while(|change| change.timestamp().as_second() < SECONDS.1)
    {
        let local = (change.offset().seconds(), change.dst() == Dst::Yes);
        let known = types.iter().position(|known| *known == local);
        let number = known.unwrap_or_else(|| {
            types.push(local);
            types.len() - 1
        });
        let Some(number) = u8::try_from(number).ok().filter(|_| types.len() <= TYPES_MAX) else { break };
        transitions.push((change.timestamp().as_second(), number));
    }
    // Types are written without names: one empty name serves all.
    let header = |transitions: usize, types: usize, names: usize| {
        let mut bytes = b"TZif2".to_vec();
        bytes.extend_from_slice(&[0; 15]);
        for count in [0, 0, 0, transitions, types, names] {
            bytes.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
        }
        bytes
    };
    // The first block, with 32-bit numbers, is mandatory, but a reader of version 2 skips it.
    let mut bytes = header(0, 1, 1);
    bytes.extend_from_slice(&[0; 7]);
    bytes.extend_from_slice(&header(transitions.len(), types.len(), 1));
    transitions.iter().for_each(|(at, _)| bytes.extend_from_slice(&at.to_be_bytes()));
    bytes.extend(transitions.iter().map(|(_, number)| *number));
    for (seconds, is_dst) in types {
        bytes.extend_from_slice(&seconds.to_be_bytes());
        bytes.extend_from_slice(&[u8::from(is_dst), 0]);
    }
    // The empty name, and an empty rule for the time after the last transition.
    bytes.extend_from_slice(b"\0\n\n");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::ToSpan;

    #[test]
    fn a_reader_finds_the_hosts_own_offsets() {
        for name in ["Europe/Paris", "Africa/Casablanca", "Pacific/Apia", "UTC", "America/Sao_Paulo", "Asia/Kathmandu"]
        {
            let (bytes, own) = (tzif(name), TimeZone::get(name).unwrap());
            let read = TimeZone::tzif(name, &bytes).unwrap();
            let mut at: Timestamp = "1901-01-01T00:00:00Z".parse().unwrap();
            while at < "2199-01-01T00:00:00Z".parse().unwrap() {
                assert_eq!(read.to_offset(at), own.to_offset(at), "{name} at {at}");
                at += 67.hours();
            }
            assert!(bytes.len() < 64 << 10, "{name}: {} bytes", bytes.len());
        }
        assert!(tzif("Europe/Pariss").is_empty());
    }
}
