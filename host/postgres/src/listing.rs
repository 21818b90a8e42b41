//! Lists the objects of a database as texts, with one statement for each listing (`sql/`). The server hashes the texts.

use super::OpenDatabase;
use super::evidence::Sealed;
use base::error::Result;
use base::evidence::Selected;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// The kinds of listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// Attributes that stay the same after a dump and restore.
    Structure,
    /// Expressions, which the server may print differently after a restore.
    Definitions,
    /// Comments.
    Comments,
    /// Owners, rights and security labels, and the settings of the database itself.
    Rights,
}

/// One of the statements of [`Listing`].
macro_rules! listing {
    ($file:literal) => {
        concat!(include_str!("sql/objects.sql"), include_str!($file), include_str!("sql/hashed.sql"))
    };
}

impl Listing {
    fn from_selected(selected: &Selected) -> Option<Self> {
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

    /// Names the listing method in the hash, so that a different method never produces the same hash.
    const fn method(self) -> &'static [u8] {
        match self {
            Self::Structure => b"structure-sha256-sum-1",
            Self::Definitions => b"definitions-sha256-sum-2",
            Self::Comments => b"comments-sha256-sum-1",
            Self::Rights => b"rights-sha256-sum-1",
        }
    }
}

/// The hashes of the listings in one snapshot. Each is computed once.
#[derive(Debug, Default)]
pub(super) struct Listings {
    structure: OnceCell<String>,
    definitions: OnceCell<String>,
    comments: OnceCell<String>,
    rights: OnceCell<String>,
}

impl Listings {
    const fn cell(&self, listing: Listing) -> &OnceCell<String> {
        match listing {
            Listing::Structure => &self.structure,
            Listing::Definitions => &self.definitions,
            Listing::Comments => &self.comments,
            Listing::Rights => &self.rights,
        }
    }
}

impl OpenDatabase {
    /// Hash of a listing of objects. It does not depend on object identifiers or extension versions, because a dump
    /// does not contain them.
    pub async fn listed(&self, listing: Listing) -> Result<String> {
        self.listings.cell(listing).get_or_try_init(|| self.hash_of(listing)).await.cloned()
    }

    /// Starts the listings that will be measured later, while other connections read rows. The server takes half a
    /// second to list four hundred tables. Errors are only logged here, because the later request fails with them
    /// again.
    pub fn list_ahead(self: &Arc<Self>, selected: &[Selected]) {
        let listings: Vec<Listing> = selected.iter().filter_map(Listing::from_selected).collect();
        if self.readers_max < 2 || listings.is_empty() {
            return;
        }
        let session = Arc::clone(self);
        tokio::spawn(async move {
            let Ok(_reading) = session.reading.acquire().await else { return };
            for listing in listings {
                if let Err(error) = session.listed(listing).await {
                    tracing::debug!(scope = session.scope(), %error, "listing ahead stopped");
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
