//! Objects of a database listed as texts by one statement each (`sql/`), of which the server makes a hash.

use super::Session;
use super::evidence::Sealed;
use base::error::Result;
use base::evidence::Selected;
use std::sync::Arc;
use tokio::sync::OnceCell;

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
    fn of(selected: &Selected) -> Option<Self> {
        match selected {
            Selected::Structure => Some(Self::Structure),
            Selected::Definitions => Some(Self::Definitions),
            Selected::Comments => Some(Self::Comments),
            Selected::Rights => Some(Self::Rights),
            _ => None,
        }
    }

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

/// The hashes of what was listed in one snapshot, each made once.
#[derive(Debug, Default)]
pub(super) struct Listings {
    structure: OnceCell<String>,
    definitions: OnceCell<String>,
    comments: OnceCell<String>,
    rights: OnceCell<String>,
}

impl Listings {
    const fn place(&self, listing: Listing) -> &OnceCell<String> {
        match listing {
            Listing::Structure => &self.structure,
            Listing::Definitions => &self.definitions,
            Listing::Comments => &self.comments,
            Listing::Rights => &self.rights,
        }
    }
}

impl Session {
    /// Hash of a listing of objects. Object identifiers are no part of it, nor is an extension's version, because a dump has none.
    ///
    /// # Errors
    /// See [`Session::open`].
    pub async fn listed(&self, listing: Listing) -> Result<String> {
        self.listings.place(listing).get_or_try_init(|| self.hash_of(listing)).await.cloned()
    }

    /// Begins with the listings of what will be measured, beside rows that are read on other connections: the server lists four
    /// hundred tables in half a second. What goes wrong goes wrong again for whoever asks.
    pub fn list_ahead(self: &Arc<Self>, selected: &[Selected]) {
        let listings: Vec<Listing> = selected.iter().filter_map(Listing::of).collect();
        if self.readers_max < 2 || listings.is_empty() {
            return;
        }
        let session = Arc::clone(self);
        tokio::spawn(async move {
            let Ok(_reading) = session.reading.acquire().await else { return };
            for listing in listings {
                if let Err(error) = session.listed(listing).await {
                    tracing::debug!(scope = session.scope(), %error, "nothing more is listed ahead");
                    return;
                }
            }
        });
    }

    async fn hash_of(&self, listing: Listing) -> Result<String> {
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
