//! Differences between S3 servers, as plain data. The profile is set in the configuration and never inferred from a
//! server's answers: several servers answer 200 to requests that they ignore.

use serde::Deserialize;
use std::fmt;

/// An S3 server, or a family of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Amazon S3.
    Aws,
    /// Google Cloud Storage through its XML API, with an HMAC key.
    Gcs,
    /// MinIO.
    Minio,
    /// Garage.
    Garage,
    /// Ceph Object Gateway.
    Ceph,
    /// Cloudflare R2.
    R2,
    /// Backblaze B2.
    B2,
    /// Any other server: only features that every server supports.
    #[default]
    Generic,
}

/// What a profile's servers support.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProfileFacts {
    /// PutObject with `If-None-Match: *` fails if the object exists. Other servers ignore or reject the header.
    pub conditional_create: bool,
    /// Default region; `None` if the configuration must set it.
    pub region: Option<&'static str>,
    /// Default endpoint.
    pub endpoint: Option<&'static str>,
    /// The endpoint follows from the region.
    pub regional_endpoint: bool,
    /// The checksum that protects the parts of a large object in transit.
    pub part_checksum: PartChecksum,
}

/// A checksum of one part, which the server verifies before it accepts the part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartChecksum {
    /// Content-MD5, which every server verifies. One core computes 650 MB/s.
    Md5,
    /// CRC32C, which processors compute in hardware. Only for servers that were seen to verify it: Google Cloud
    /// Storage, for one, accepts any value.
    Crc32c,
}

impl Profile {
    /// Every profile.
    pub const ALL: [Self; 8] =
        [Self::Aws, Self::Gcs, Self::Minio, Self::Garage, Self::Ceph, Self::R2, Self::B2, Self::Generic];

    /// Its name in the configuration.
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

    /// What its servers support.
    pub const fn facts(self) -> ProfileFacts {
        const BASELINE: ProfileFacts = ProfileFacts {
            conditional_create: false,
            region: Some("auto"),
            endpoint: None,
            regional_endpoint: false,
            part_checksum: PartChecksum::Md5,
        };
        match self {
            Self::Aws => ProfileFacts { conditional_create: true, region: None, regional_endpoint: true, ..BASELINE },
            Self::Gcs => ProfileFacts { endpoint: Some("https://storage.googleapis.com"), ..BASELINE },
            Self::Minio => ProfileFacts { conditional_create: true, region: Some("us-east-1"), ..BASELINE },
            Self::Garage => ProfileFacts { region: Some("garage"), part_checksum: PartChecksum::Crc32c, ..BASELINE },
            // Releases differ in how they treat a precondition.
            Self::Ceph => ProfileFacts { region: Some("default"), ..BASELINE },
            Self::R2 => ProfileFacts { conditional_create: true, ..BASELINE },
            // B2 answers a precondition with 501.
            Self::B2 => ProfileFacts { region: None, ..BASELINE },
            Self::Generic => BASELINE,
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
