//! The certificate that the API shows: the node's own, exchanged when it is renewed.

use std::sync::Arc;

use parking_lot::RwLock;
use rustls::{
    ServerConfig,
    crypto::ring,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use swarmer_mesh::identity::NodeKey;

use crate::{
    agent::identity::Grant,
    codes,
    problem::{Outcome, Problem},
};

/// Shows the newest certificate of the node. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ApiCertificate {
    current: Arc<RwLock<Arc<CertifiedKey>>>,
}

fn certified(grant: &Grant, key: &NodeKey) -> Outcome<Arc<CertifiedKey>> {
    let fail = |why: String| Problem::new(codes::INTERNAL, format!("the API's certificate: {why}"));
    let chain = vec![
        CertificateDer::from(grant.certificate.clone()),
        CertificateDer::from(grant.ca.clone()),
    ];
    let key = PrivateKeyDer::from_pem_slice(key.to_pem().as_bytes())
        .map_err(|error| fail(error.to_string()))?;
    let signing = ring::sign::any_supported_type(&key).map_err(|error| fail(error.to_string()))?;
    Ok(Arc::new(CertifiedKey::new(chain, signing)))
}

impl ApiCertificate {
    pub(crate) fn new(grant: &Grant, key: &NodeKey) -> Outcome<Self> {
        Ok(Self { current: Arc::new(RwLock::new(certified(grant, key)?)) })
    }

    /// From now on this one is shown.
    pub(crate) fn renew(&self, grant: &Grant, key: &NodeKey) -> Outcome<()> {
        *self.current.write() = certified(grant, key)?;
        Ok(())
    }

    /// TLS of the API's port.
    pub(crate) fn server_config(&self) -> Outcome<Arc<ServerConfig>> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| Problem::new(codes::INTERNAL, error.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for ApiCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read()))
    }
}
