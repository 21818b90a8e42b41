//! The places where a server may be found: every host, and every address of each host, in order. Each place gets the
//! full timeout of one attempt. Otherwise a name whose first address does not answer would use up the time of the
//! others.

use super::client::Connection;
use super::{DatabaseConfig, SessionAttrs};
use base::error::{Class, Error, Result};
use std::net::IpAddr;

/// Maximum number of addresses of one name that are tried. A name with more addresses stands for a pool, in which a few
/// suffice.
const ADDRESSES_MAX: usize = 8;

impl DatabaseConfig {
    /// One configuration for each place, in the order in which they are tried.
    pub(super) async fn places(&self) -> Vec<Self> {
        let mut places = Vec::new();
        for host in self.hosts() {
            let at = |address| Self { host: host.to_owned(), address, ..self.clone() };
            let addresses = if self.address.is_some() { Vec::new() } else { addresses(host, self.port).await };
            match addresses.as_slice() {
                // If the name does not resolve, the attempt to connect reports the error.
                [] => places.push(at(self.address)),
                several => places.extend(several.iter().map(|address| at(Some(*address)))),
            }
        }
        places
    }

    /// Host and port for messages.
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
    /// The kinds of server to look for. Each of them takes one round over all places.
    pub(super) const fn rounds(self) -> &'static [Self] {
        match self {
            Self::Any => &[Self::Any],
            Self::Primary => &[Self::Primary],
            Self::Standby => &[Self::Standby],
            Self::PreferStandby => &[Self::Standby, Self::Any],
        }
    }

    /// Checks that the server is of the wanted kind.
    ///
    /// # Errors
    /// If it is not: class `Unavailable` if it is one of several, because another one may be; otherwise class `Config`.
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
            true => ("it is a standby", "use a primary server; a restore cannot write to a standby"),
            false => ("it is not a standby", "check `target_session_attrs` and `host`"),
        };
        let class = if is_one_of_several { Class::Unavailable } else { Class::Config };
        Err(Error::new(class, format!("{}: {why}", connection.target())).hint(hint))
    }
}
