//! Our rules for what we build from.

/// What is allowed and what is not.
pub(crate) struct Rules {
    /// Licences that everything may have.
    pub(crate) licences: &'static [&'static str],
    /// Crate, licence, and why this one crate may have it.
    pub(crate) licence_exceptions: &'static [(&'static str, &'static str, &'static str)],
    /// Crates that must not be built, and why.
    pub(crate) banned: &'static [(&'static str, &'static str)],
    /// Crates of which there is one version: two copies of one protocol or primitive are two
    /// things to audit, to patch and to feed with keys.
    pub(crate) single: &'static [&'static str],
    /// The rooms, and which others each may depend on.
    pub(crate) rooms: &'static [(&'static str, &'static [&'static str])],
    /// Rooms that every room may use in tests, and none outside of them.
    pub(crate) dev_only: &'static [&'static str],
}

const ONE_PROVIDER: &str = "ring is the one provider of cryptography";
const NO_C_YAML: &str = "unmaintained; serde-saphyr reads YAML";

/// What stands on the ground floor and may depend on it alone.
const ON_MODEL: &[&str] = &["swarmer-model"];

impl Rules {
    /// The rules of this workspace.
    pub(crate) const fn ours() -> Self {
        Self {
            licences: &[
                "Apache-2.0",
                "Apache-2.0 WITH LLVM-exception",
                "MIT",
                "BSD-2-Clause",
                "BSD-3-Clause",
                "BSL-1.0",
                "ISC",
                "Zlib",
                "0BSD",
                "CC0-1.0",
                "Unlicense",
                // Tables of the Unicode consortium.
                "Unicode-3.0",
                // Data, not code: the root certificates of webpki-roots.
                "CDLA-Permissive-2.0",
            ],
            licence_exceptions: &[(
                "foca",
                "MPL-2.0",
                "copyleft by file, and we build its files as they are published",
            )],
            banned: &[
                ("openssl", ONE_PROVIDER),
                ("openssl-sys", ONE_PROVIDER),
                ("openssl-src", ONE_PROVIDER),
                ("boring", ONE_PROVIDER),
                ("native-tls", ONE_PROVIDER),
                ("aws-lc-rs", ONE_PROVIDER),
                ("aws-lc-sys", ONE_PROVIDER),
                ("aws-lc-fips-sys", ONE_PROVIDER),
                ("serde_yaml", NO_C_YAML),
                ("serde_yml", NO_C_YAML),
                ("atty", "unmaintained; std::io::IsTerminal"),
                ("async-std", "discontinued; tokio is the one runtime"),
                ("failure", "unmaintained; thiserror"),
            ],
            // Not here: crypto-common, which is traits without an algorithm; sha2 0.10 and
            // chacha20poly1305 0.11 stand on two generations of it.
            single: &[
                "aead",
                "aes",
                "aes-gcm",
                "blake2",
                "blake3",
                "chacha20",
                "chacha20poly1305",
                "cipher",
                "curve25519-dalek",
                "digest",
                "ecdsa",
                "ed25519-dalek",
                "elliptic-curve",
                "hkdf",
                "hmac",
                "hyper-rustls",
                "p256",
                "p384",
                "poly1305",
                "quinn",
                "quinn-proto",
                "rcgen",
                "ring",
                "rsa",
                "rustls",
                "rustls-pki-types",
                "rustls-webpki",
                "sha1",
                "sha2",
                "sha3",
                "signature",
                "subtle",
                "tokio-rustls",
                "universal-hash",
                "webpki-roots",
                "x25519-dalek",
                "x509-parser",
                "zeroize",
            ],
            rooms: &[
                ("swarmer-model", &[]),
                // Stands in for the registry's, below openraft.
                ("base2histogram", &[]),
                ("swarmer-gossip", ON_MODEL),
                ("swarmer-raft", ON_MODEL),
                ("swarmer-mesh", ON_MODEL),
                ("swarmer-runtime", ON_MODEL),
                ("swarmer-scheduler", ON_MODEL),
                (
                    "swarmer",
                    &[
                        "swarmer-model",
                        "swarmer-gossip",
                        "swarmer-raft",
                        "swarmer-mesh",
                        "swarmer-runtime",
                        "swarmer-scheduler",
                    ],
                ),
                // Black-box: it sees the binary, its API and the model.
                ("chaos-tests", &["swarmer-model"]),
                // Cores of several rooms in one simulated world.
                (
                    "simulator",
                    &["swarmer-model", "swarmer-gossip", "swarmer-raft", "swarmer-scheduler"],
                ),
                // It runs the binary, and starts functions, plans and members in process to see
                // what that takes.
                (
                    "swarmer-bench",
                    &["swarmer-model", "swarmer-gossip", "swarmer-runtime", "swarmer-scheduler"],
                ),
                ("swarmer-testkit", &[]),
                ("xtask", &["swarmer-testkit"]),
            ],
            dev_only: &["swarmer-testkit"],
        }
    }
}
