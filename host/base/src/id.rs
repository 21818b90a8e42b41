//! Names that are moments: stamps, and the ids of snapshots.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// Format of a stamp.
const FORMAT: &str = "%Y%m%dT%H%M%SZ";

/// A moment to the second, as it stands in the names of objects: `20260630T010000Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, derive_more::Display)]
#[display("{}", _0.strftime(FORMAT))]
pub struct Stamp(Timestamp);

/// A snapshot. Its id is the moment at which its run began, and names everything that the run created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, derive_more::Display)]
#[serde(transparent)]
pub struct SnapshotId(Stamp);

/// The text is not a valid stamp.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a valid moment; expected one such as 20260630T010000Z")]
pub struct InvalidStamp(String);

/// The text is not a valid snapshot id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a valid snapshot id; expected one such as 20260630T010000Z")]
pub struct InvalidSnapshotId(String);

impl Stamp {
    /// The second that contains `moment`.
    pub fn at(moment: Timestamp) -> Self {
        Self(Timestamp::from_second(moment.as_second()).unwrap_or(moment))
    }

    /// The moment.
    pub const fn moment(self) -> Timestamp {
        self.0
    }

    /// The stamp `seconds` later, or the last representable one.
    #[must_use]
    pub fn after(self, seconds: i64) -> Self {
        Self::at(self.0.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX))
    }
}

impl SnapshotId {
    /// The id of a run that begins at `moment`.
    pub fn at(moment: Timestamp) -> Self {
        Self(Stamp::at(moment))
    }

    /// The id of the snapshot that is named by a stamp.
    pub const fn named(stamp: Stamp) -> Self {
        Self(stamp)
    }

    /// When the run began.
    pub const fn taken(self) -> Timestamp {
        self.0.moment()
    }

    /// When the run began, as it stands in names.
    pub const fn stamp(self) -> Stamp {
        self.0
    }

    /// The id one second later; the last representable id stays the same.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.after(1))
    }
}

impl From<SnapshotId> for Stamp {
    fn from(id: SnapshotId) -> Self {
        id.0
    }
}

impl FromStr for Stamp {
    type Err = InvalidStamp;

    /// Accepts only the format that [`std::fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, InvalidStamp> {
        Self::parse_bytes(text.as_bytes()).ok_or_else(|| InvalidStamp(text.to_owned()))
    }
}

impl FromStr for SnapshotId {
    type Err = InvalidSnapshotId;

    fn from_str(text: &str) -> Result<Self, InvalidSnapshotId> {
        text.parse().map(Self).map_err(|InvalidStamp(text)| InvalidSnapshotId(text))
    }
}

impl Stamp {
    /// Parses digit by digit: a listing has thousands of ids, and a general parser would dominate its cost.
    fn parse_bytes(text: &[u8]) -> Option<Self> {
        let [date @ .., b'Z'] = text else { return None };
        let (date, time) = (date.get(..8)?, date.get(8..)?);
        let [b'T', time @ ..] = time else { return None };
        let number = |digits: Option<&[u8]>| {
            digits?
                .iter()
                .try_fold(0_i16, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i16::from(digit - b'0')))
        };
        let small = |digits: Option<&[u8]>| number(digits).and_then(|number| i8::try_from(number).ok());
        if time.len() != 6 {
            return None;
        }
        let civil = jiff::civil::DateTime::new(
            number(date.get(..4))?,
            small(date.get(4..6))?,
            small(date.get(6..))?,
            small(time.get(..2))?,
            small(time.get(2..4))?,
            small(time.get(4..))?,
            0,
        );
        jiff::tz::Offset::UTC.to_timestamp(civil.ok()?).ok().map(Self)
    }
}

impl Serialize for Stamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Stamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
