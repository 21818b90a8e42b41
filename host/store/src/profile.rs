//! What differs between S3 servers, as plain data. A profile is chosen in the configuration and never inferred from
//! what a server answers: several answer 200 to what they ignore.

use serde::Deserialize;
use std::fmt;

/// An S3 server, or a family of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Amazon S3.
    Aws,
    /// Google Cloud Storage by its XML interface, with an HMAC key.
    Gcs,
    /// MinIO.
    Minio,
    /// Garage.
    Garage,
    /// Ceph's object gateway.
    Ceph,
    /// Cloudflare R2.
    R2,
    /// Backblaze B2.
    B2,
    /// Any other: only what every server does.
    #[default]
    Generic,
}

/// What a profile's servers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// PutObject with `If-None-Match: *` is refused where the object exists. Elsewhere the header is ignored or refused.
    pub conditional_create: bool,
    /// Region of a configuration without one; none where only the configuration can know it.
    pub region: Option<&'static str>,
    /// Endpoint of a configuration without one.
    pub endpoint: Option<&'static str>,
    /// The region alone leads to the endpoint.
    pub regional_endpoint: bool,
    /// What the parts of a large object carry against damage on their way.
    pub part_checksum: PartChecksum,
}

/// A checksum of one part, which the server compares before it takes the part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartChecksum {
    /// Content-MD5, which every server compares. A core makes 650 MB/s of it.
    Md5,
    /// CRC32C, for which processors have an instruction. Only where it was seen to be compared: Google Cloud Storage, for
    /// one, takes any value.
    Crc32c,
}

impl Profile {
    /// Every profile.
    pub const ALL: [Self; 8] =
        [Self::Aws, Self::Gcs, Self::Minio, Self::Garage, Self::Ceph, Self::R2, Self::B2, Self::Generic];

    /// As the configuration spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::Gcs => "gcs",
            Self::Minio => "minio",
            Self::Garage => "garage",
            Self::Ceph => "ceph",
            Self::R2 => "r2",
            Self::B2 => "b2",
            Self::Generic => "generic",
        }
    }

    /// What its servers do.
    #[must_use]
    pub const fn facts(self) -> Facts {
        const PLAIN: Facts = Facts {
            conditional_create: false,
            region: Some("auto"),
            endpoint: None,
            regional_endpoint: false,
            part_checksum: PartChecksum::Md5,
        };
        match self {
            Self::Aws => Facts { conditional_create: true, region: None, regional_endpoint: true, ..PLAIN },
            Self::Gcs => Facts { endpoint: Some("https://storage.googleapis.com"), ..PLAIN },
            Self::Minio => Facts { conditional_create: true, region: Some("us-east-1"), ..PLAIN },
            Self::Garage => Facts { region: Some("garage"), part_checksum: PartChecksum::Crc32c, ..PLAIN },
            // Releases differ in what they do with a precondition.
            Self::Ceph => Facts { region: Some("default"), ..PLAIN },
            Self::R2 => Facts { conditional_create: true, ..PLAIN },
            // A precondition is 501 here.
            Self::B2 => Facts { region: None, ..PLAIN },
            Self::Generic => PLAIN,
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
