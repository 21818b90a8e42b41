//! Where a server is looked for: each host in turn, and each of its addresses, with the whole time of an attempt for each. A name whose first
//! address answers nobody would otherwise take the time of all others.

use super::client::Connection;
use super::{Config, SessionAttrs};
use base::error::{Class, Error, Result};
use std::net::IpAddr;

/// Addresses of one name that are tried. A name with more stands for a pool, of which any few will do.
const ADDRESSES_MAX: usize = 8;

impl Config {
    /// The same database at one place each.
    pub(super) async fn places(&self) -> Vec<Self> {
        let mut places = Vec::new();
        for host in self.hosts() {
            let at = |address| Self { host: host.to_owned(), address, ..self.clone() };
            let addresses = if self.address.is_some() { Vec::new() } else { addresses(host, self.port).await };
            match addresses.as_slice() {
                // Whoever connects finds out, and says what there is to say.
                [] => places.push(at(self.address)),
                several => places.extend(several.iter().map(|address| at(Some(*address)))),
            }
        }
        places
    }

    /// Where it is, for people.
    #[must_use]
    pub fn place(&self) -> String {
        self.resolved().map_or_else(
            |_| format!("the service `{}`", self.service.as_deref().unwrap_or_default()),
            |at| format!("{}:{}", at.host, at.port),
        )
    }
}

async fn addresses(host: &str, port: u16) -> Vec<IpAddr> {
    if host.starts_with('/') || host.parse::<IpAddr>().is_ok() {
        return Vec::new();
    }
    let found = tokio::net::lookup_host((host, port)).await;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.into_iter().flatten().map(|address| address.ip()) {
        if !addresses.contains(&address) && addresses.len() < ADDRESSES_MAX {
            addresses.push(address);
        }
    }
    addresses
}

impl SessionAttrs {
    /// What is looked for, one round over all places each.
    pub(super) const fn rounds(self) -> &'static [Self] {
        match self {
            Self::Any => &[Self::Any],
            Self::Primary => &[Self::Primary],
            Self::Standby => &[Self::Standby],
            Self::PreferStandby => &[Self::Standby, Self::Any],
        }
    }

    /// Whether a server will do, which may be one of several.
    ///
    /// # Errors
    /// Where it will not: class `Config`, or `Unavailable` where another one may; the server's.
    pub(super) async fn check(self, connection: &Connection, is_one_of_several: bool) -> Result<()> {
        let is_wanted_standby = match self {
            Self::Any | Self::PreferStandby => return Ok(()),
            Self::Primary => false,
            Self::Standby => true,
        };
        let row = connection.query_one("SELECT pg_is_in_recovery()", &[]).await?;
        let is_standby: bool = connection.read(&row, 0)?;
        if is_standby == is_wanted_standby {
            return Ok(());
        }
        let (why, hint) = match is_standby {
            true => ("it is a standby", "name a server that is none; a restore writes, and a standby takes nothing"),
            false => ("it is no standby", "check `target_session_attrs` and `host`"),
        };
        let class = if is_one_of_several { Class::Unavailable } else { Class::Config };
        Err(Error::new(class, format!("{}: {why}", connection.target())).hint(hint))
    }
}
