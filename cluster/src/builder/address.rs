//! The address that other nodes are given.

use std::net::IpAddr;

pub(super) const UNSPECIFIED: &str = "other nodes cannot connect to an unspecified address; say which they use";

/// Whether other nodes can be given this address. Where it leads to is found when they connect.
pub(super) fn check_address(address: &str) -> Result<(), &'static str> {
    let is_no_host = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '@' | '?' | '#');
    let Some((host, port)) = address.rsplit_once(':') else { return Err("it is `host:port`") };
    let plain = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if host.is_empty() || host.contains(is_no_host) || (plain.is_none() && host.contains(':')) {
        return Err("it is `host:port`, with an IPv6 address in brackets");
    }
    if !port.parse().is_ok_and(|port: u16| port != 0) {
        return Err(
            "its port is a number from 1 to 65535; without `advertise` it is the one that the system has chosen",
        );
    }
    let is_unspecified = plain.unwrap_or(host).parse().is_ok_and(|ip: IpAddr| ip.is_unspecified());
    if is_unspecified { Err(UNSPECIFIED) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_a_host_and_a_port() {
        for address in ["10.0.0.7:7101", "[fd00::7]:7101", "node-7.chat.svc.cluster.local:1", "localhost:65535"] {
            assert_eq!(check_address(address), Ok(()), "{address}");
        }
        let wrong = [
            "",
            "10.0.0.7",
            ":7101",
            "10.0.0.7:",
            "10.0.0.7:0",
            "10.0.0.7:65536",
            "10.0.0.7:port",
            "fd00::7:7101",
            "http://10.0.0.7:7101",
            "10.0.0.7:7101/",
            " 10.0.0.7:7101",
            "10.0.0.7:7101 ",
            "a\nstate=up:1",
            "me@host:1",
        ];
        for address in wrong {
            assert!(check_address(address).is_err(), "{address:?}");
        }
        for address in ["0.0.0.0:7101", "[::]:7101"] {
            assert_eq!(check_address(address), Err(UNSPECIFIED));
        }
    }
}
