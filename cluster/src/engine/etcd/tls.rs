//! TLS to the members.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ClientConfig, ConfigBuilder, RootCertStore, client::WantsClientCert, crypto};

/// What a client of etcd trusts, and what it presents. Members with an `https` address need it.
///
/// A member must present a certificate for the host name or the IP address by which it is listed.
#[derive(Clone)]
pub struct EtcdTls {
    pub(super) connector: TlsConnector,
}

/// The certificates cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EtcdTlsError {
    /// The text is not PEM, or contains nothing of the expected kind.
    #[error("not a usable PEM: {0}")]
    Pem(#[from] pem::Error),
    /// A certificate or a key is not valid, or they do not belong together.
    #[error("not a usable certificate or key: {0}")]
    Certificate(#[from] rustls::Error),
}

impl EtcdTls {
    /// Trusts the members whose certificates were signed by one of these authorities.
    ///
    /// # Errors
    ///
    /// The text has no certificate, or one that is not valid.
    pub fn from_pem(authorities: impl AsRef<[u8]>) -> Result<EtcdTls, EtcdTlsError> {
        Ok(EtcdTls::with(trusting(authorities.as_ref())?.with_no_client_auth()))
    }

    /// The same, and presents a certificate of its own (etcd's `--client-cert-auth`).
    ///
    /// # Errors
    ///
    /// One of the texts lacks its certificate or key, or the key does not belong to the certificate.
    pub fn mutual(
        authorities: impl AsRef<[u8]>,
        certificate: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
    ) -> Result<EtcdTls, EtcdTlsError> {
        let chain = certificates(certificate.as_ref())?;
        let key = PrivateKeyDer::from_pem_slice(key.as_ref())?;
        Ok(EtcdTls::with(trusting(authorities.as_ref())?.with_client_auth_cert(chain, key)?))
    }

    fn with(mut config: ClientConfig) -> EtcdTls {
        config.alpn_protocols = vec![b"h2".to_vec()];
        EtcdTls { connector: TlsConnector::from(Arc::new(config)) }
    }
}

fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    let found = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>()?;
    if found.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(found) }
}

fn trusting(authorities: &[u8]) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, EtcdTlsError> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(authorities)? {
        roots.add(authority)?;
    }
    // Not the process's default: a program may have installed another one, or none.
    let provider = Arc::new(crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots))
}

impl fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdTls").finish_non_exhaustive()
    }
}
