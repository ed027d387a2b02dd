//! Which proxy, if any, a request goes through.
//!
//! The variables mean what they mean to pip: `HTTPS_PROXY` and `HTTP_PROXY` by the scheme of the
//! request, `ALL_PROXY` for either, `NO_PROXY` for hosts that are asked directly, each in lower
//! or upper case. It does not connect to anything.

use std::net::IpAddr;

use url::Url;

use super::environment::Environment;

/// The proxy for `url`; `configured` is a setting of its own and beats the variables.
pub fn proxy_for<'a>(
    url: &Url,
    configured: Option<&'a str>,
    environment: &'a Environment,
) -> Option<&'a str> {
    let host = url.host_str()?;
    let port = url.port_or_known_default();
    let either = |name: &str| {
        environment
            .get(name)
            .or_else(|| environment.get(&name.to_ascii_uppercase()))
    };
    if either("no_proxy").is_some_and(|list| is_exempt(list, host, port)) {
        return None;
    }
    configured
        .or_else(|| either(&format!("{}_proxy", url.scheme())))
        .or_else(|| either("all_proxy"))
}

/// Whether `host` is in a `NO_PROXY` list. An entry is `*`, a host (with all its subdomains; a
/// leading `.` or `*.` changes nothing), an address, or a block of addresses (`10.0.0.0/8`),
/// each but the block with an optional port.
fn is_exempt(list: &str, host: &str, port: Option<u16>) -> bool {
    let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    list.split(',').map(str::trim).any(|entry| {
        if entry == "*" {
            return true;
        }
        let entry = entry.to_ascii_lowercase();
        if let (Some(address), Some(block)) = (address, entry.split_once('/')) {
            return in_block(address, block);
        }
        let entry = match entry.rsplit_once(':') {
            // One colon: a port follows. More: an IPv6 address without one.
            Some((name, wanted)) if !name.contains(':') || name.ends_with(']') => {
                if wanted.parse().ok() != port {
                    return false;
                }
                name
            }
            _ => &entry,
        };
        let name = entry.trim_matches(['[', ']']);
        let name = name.trim_start_matches('*').trim_start_matches('.');
        if name.is_empty() {
            return false;
        }
        host == name
            || (address.is_none()
                && host
                    .strip_suffix(name)
                    .is_some_and(|rest| rest.ends_with('.')))
    })
}

fn in_block(address: IpAddr, (network, length): (&str, &str)) -> bool {
    let (Ok(network), Ok(length)) = (network.parse::<IpAddr>(), length.parse::<u32>()) else {
        return false;
    };
    // Shifting out everything (length 0) leaves two equal nothings.
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) if length <= 32 => {
            let host_bits = 32 - length;
            a.to_bits().checked_shr(host_bits) == n.to_bits().checked_shr(host_bits)
        }
        (IpAddr::V6(a), IpAddr::V6(n)) if length <= 128 => {
            let host_bits = 128 - length;
            a.to_bits().checked_shr(host_bits) == n.to_bits().checked_shr(host_bits)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(url: &str, configured: Option<&str>, variables: &[(&str, &str)]) -> Option<String> {
        let url = Url::parse(url).unwrap();
        let environment = variables.iter().copied().collect();
        proxy_for(&url, configured, &environment).map(str::to_owned)
    }

    #[test]
    fn the_scheme_picks_the_variable() {
        let variables = [
            ("HTTPS_PROXY", "s"),
            ("http_proxy", "h"),
            ("ALL_PROXY", "a"),
        ];
        let is = |text: &str| Some(text.to_owned());
        assert_eq!(proxy("https://x/", None, &variables), is("s"));
        assert_eq!(proxy("http://x/", None, &variables), is("h"));
        assert_eq!(proxy("http://x/", None, &variables[2..]), is("a"));
        assert_eq!(proxy("https://x/", Some("pip"), &variables), is("pip"));
        assert_eq!(proxy("https://x/", None, &[]), None);
        assert_eq!(proxy("file:///x", None, &variables), None);
    }

    #[test]
    fn exempt_hosts_are_asked_directly() {
        let exempt = |url: &str, list: &str| proxy(url, Some("p"), &[("NO_PROXY", list)]).is_none();
        assert!(exempt("https://a.example/", "*"));
        assert!(exempt("https://a.example/", "b, a.example"));
        assert!(exempt("https://s.A.example/", ".a.example"));
        assert!(exempt("https://s.a.example/", "*.a.example"));
        assert!(exempt("https://a.example/", "a.example:443"));
        assert!(exempt("http://127.0.0.1:5/", "127.0.0.1"));
        assert!(exempt("http://10.1.2.3/", "10.0.0.0/8"));
        assert!(exempt("http://10.1.2.3/", "0.0.0.0/0"));
        assert!(exempt("http://[::1]:8/", "::1"));
        assert!(exempt("http://[::1]:8/", "[::1]:8"));
        assert!(exempt("http://[fd00::1]/", "fd00::/8"));
        assert!(!exempt("https://aa.example/", "a.example"));
        assert!(!exempt("https://a.example/", "a.example:80"));
        assert!(!exempt("http://11.1.2.3/", "10.0.0.0/8"));
        assert!(!exempt("http://10.1.2.3/", "2.3"));
        assert!(!exempt("https://a.example/", ""));
        assert!(!exempt("https://a.example/", ", ,."));
        assert!(!exempt("https://a.example/", "10.0.0.0/99"));
    }
}
