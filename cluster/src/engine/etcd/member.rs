//! The address of one member.

use std::fmt;
use std::str::FromStr;

use http::Uri;

/// Where one member answers: `http://10.0.0.1:2379`, or `https` with TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    is_tls: bool,
    /// A name or an IP address, without the brackets of IPv6.
    host: String,
    port: u16,
}

impl Member {
    pub(super) fn is_tls(&self) -> bool {
        self.is_tls
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Member {
    type Err = String;

    fn from_str(text: &str) -> Result<Member, String> {
        let wrong = |why: &str| format!("{text:?} is not the address of a member: {why}");
        let uri = text.parse::<Uri>().map_err(|error| wrong(&error.to_string()))?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong("it begins with http:// or https://")),
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || text.contains('@') {
            return Err(wrong("it has a host and a port, and nothing else"));
        }
        let host = uri.host().unwrap_or_default();
        // A port that is no number is none to `Uri`.
        if uri.port().is_none() && uri.authority().is_some_and(|authority| authority.as_str() != host) {
            return Err(wrong("it has no valid port"));
        }
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err(wrong("it has no host"));
        }
        Ok(Member { is_tls, host: host.to_owned(), port: uri.port_u16().unwrap_or(2379) })
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Member { is_tls, host, port } = self;
        let scheme = if *is_tls { "https" } else { "http" };
        if host.contains(':') { write!(f, "{scheme}://[{host}]:{port}") } else { write!(f, "{scheme}://{host}:{port}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_of_a_member_is_read() {
        let cases = [
            ("http://10.0.0.1:2379", "http://10.0.0.1:2379"),
            ("https://etcd-1.example/", "https://etcd-1.example:2379"),
            ("http://[::1]:12379", "http://[::1]:12379"),
        ];
        for (text, written) in cases {
            assert_eq!(text.parse::<Member>().map(|member| member.to_string()), Ok(written.to_owned()));
        }
        assert_eq!("http://[::1]:1".parse::<Member>().expect("an address").host(), "::1");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "10.0.0.1:2379",
            "unix:///run/etcd",
            "http://",
            "http://a:99999",
            "http://a/b",
            "http://u:p@a",
            "http://a b",
        ] {
            assert!(text.parse::<Member>().is_err(), "{text:?}");
        }
    }
}
