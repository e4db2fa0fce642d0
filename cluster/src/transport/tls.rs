//! [`NodeTls`]: the certificates of a node.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};

/// The certificates by which the nodes of a cluster know each other, in PEM.
///
/// Each node has a certificate of an authority that all nodes trust, for the name `<cluster>.gen-registry`, in the extension
/// *subject alternative name*. Both ends of a connection check it. So a node of another cluster, or a program with a certificate
/// of the same authority for another purpose, is rejected.
///
/// # Examples
///
/// ```no_run
/// use gen_registry_cluster::NodeTls;
///
/// let read = |file| std::fs::read(format!("/etc/chat/{file}.pem"));
/// let tls = NodeTls::from_pem(read("ca")?, read("node")?, read("key")?);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct NodeTls {
    authorities: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl NodeTls {
    /// The certificates of the authorities, the certificate of this node with those between it and an authority, and its private
    /// key. They are read when the node joins.
    pub fn from_pem(
        authorities: impl Into<Vec<u8>>,
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> NodeTls {
        NodeTls { authorities: authorities.into(), certificate: certificate.into(), key: key.into() }
    }

    /// Reads the certificates for a cluster.
    pub(crate) fn read(&self, cluster: &str) -> Result<TlsConfig, NodeTlsError> {
        let name = format!("{cluster}.gen-registry");
        let name = ServerName::try_from(name.clone()).map_err(|_| NodeTlsError::Name(name))?;
        let mut authorities = RootCertStore::empty();
        for authority in certificates("authorities", &self.authorities)? {
            authorities.add(authority)?;
        }
        let authorities = Arc::new(authorities);
        let own = certificates("certificate", &self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| pem("key", error))?;
        // This node's own certificate must be one that the others accept.
        let first = own.first().ok_or(NodeTlsError::Empty { file: "certificate" })?;
        verify_server_name(&ParsedCertificate::try_from(first)?, &name)
            .map_err(|source| NodeTlsError::NotForCluster { name: name.to_str().into_owned(), source })?;

        let provider = Arc::new(ring::default_provider());
        let server = server(&provider, &authorities, &own, &key)?;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(authorities)
            .with_client_auth_cert(own, key)?;
        client.alpn_protocols = vec![b"h2".to_vec()];
        Ok(TlsConfig { server, client: Arc::new(client), name })
    }
}

fn server(
    provider: &Arc<CryptoProvider>,
    authorities: &Arc<RootCertStore>,
    own: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, NodeTlsError> {
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(authorities), Arc::clone(provider)).build()?;
    let mut server = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(clients)
        .with_single_cert(own.to_vec(), key.clone_key())?;
    server.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(server))
}

fn certificates(file: &'static str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, NodeTlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match read {
        Ok(read) if read.is_empty() => Err(NodeTlsError::Empty { file }),
        Ok(read) => Ok(read),
        Err(error) => Err(pem(file, error)),
    }
}

fn pem(file: &'static str, error: rustls::pki_types::pem::Error) -> NodeTlsError {
    NodeTlsError::Pem { file, reason: error.to_string() }
}

/// Neither the key nor the certificates.
impl fmt::Debug for NodeTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeTls(..)")
    }
}

/// Why the certificates of a node cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NodeTlsError {
    /// A file is no PEM.
    #[error("the PEM of the {file} cannot be read: {reason}")]
    Pem {
        /// `authorities`, `certificate` or `key`.
        file: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A file has no certificate.
    #[error("the PEM of the {file} has no certificate")]
    Empty {
        /// `authorities` or `certificate`.
        file: &'static str,
    },
    /// The name of the cluster cannot be part of a host name, so no certificate can have it.
    #[error("`{0}` is no host name, and certificates are issued for host names")]
    Name(String),
    /// The certificate is for other names.
    #[error("the certificate of this node is not for `{name}`: {source}")]
    NotForCluster {
        /// The name that it must have.
        name: String,
        /// Which names it has.
        source: rustls::Error,
    },
    /// The certificates, or the certificate and the key, do not fit together.
    #[error("the certificates cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
    /// There is no authority that a certificate could be checked with.
    #[error("the certificates of the authorities cannot be used: {0}")]
    Authorities(#[from] rustls::server::VerifierBuilderError),
}

/// The certificates of a node, read for a cluster.
#[derive(Clone)]
pub(crate) struct TlsConfig {
    pub(super) server: Arc<ServerConfig>,
    pub(super) client: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
}

impl TlsConfig {
    /// Whether the certificate of the other end, whose authority has been checked, names the cluster.
    pub(super) fn check_name(&self, certificates: Option<&[CertificateDer<'_>]>) -> Result<(), String> {
        let name = self.name.to_str();
        let Some(first) = certificates.and_then(|certificates| certificates.first()) else {
            return Err(format!("a certificate for `{name}` is required"));
        };
        ParsedCertificate::try_from(first)
            .and_then(|certificate| verify_server_name(&certificate, &self.name))
            .map_err(|error| format!("the certificate of this node is not for `{name}`: {error}"))
    }
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConfig").field("name", &self.name).finish_non_exhaustive()
    }
}
