//! Objects of a database listed as texts by one statement each (`sql/`), of which the server makes a hash.

use super::Session;
use super::evidence::Sealed;
use crate::error::Result;

/// What is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// What one dump and restore leave as it is.
    Structure,
    /// Expressions, which the server may print otherwise after a restore.
    Definitions,
    /// Comments.
    Comments,
    /// Owners, rights and security labels, and what the database itself is set to.
    Rights,
}

/// One of the statements of [`Listing`].
macro_rules! listing {
    ($file:literal) => {
        concat!(include_str!("sql/objects.sql"), include_str!($file), include_str!("sql/hashed.sql"))
    };
}

impl Listing {
    const fn statement(self) -> &'static str {
        match self {
            Self::Structure => listing!("sql/structure.sql"),
            Self::Definitions => listing!("sql/definitions.sql"),
            Self::Comments => listing!("sql/comments.sql"),
            Self::Rights => listing!("sql/rights.sql"),
        }
    }

    /// Seals the way of listing: another way must not give the same text.
    const fn method(self) -> &'static [u8] {
        match self {
            Self::Structure => b"structure-sha256-sum-1",
            Self::Definitions => b"definitions-sha256-sum-2",
            Self::Comments => b"comments-sha256-sum-1",
            Self::Rights => b"rights-sha256-sum-1",
        }
    }
}

impl Session {
    /// Hash of a listing of objects. Object identifiers are no part of it, nor is an extension's version, because a dump has none.
    ///
    /// # Errors
    /// See [`Session::open`].
    pub async fn listed(&self, listing: Listing) -> Result<String> {
        let reader = self.reader().await?;
        let rows = reader.query(listing.statement(), &[]).await?;
        let mut hash = Sealed::new(listing.method());
        for row in &rows {
            for column in 0..4 {
                hash.add(reader.read::<String>(row, column)?.as_bytes());
            }
        }
        self.release(reader);
        Ok(hash.finish())
    }
}
