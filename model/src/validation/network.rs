//! Addresses and networks, in their canonical form.

use std::net::IpAddr;

use super::{FieldErrors, Path};

/// An IP address as Kubernetes accepts it in new fields: canonical, not an IPv4-mapped IPv6 address.
pub fn ip(path: &Path, text: &str, errors: &mut FieldErrors) {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => {
            errors.invalid(path, text, "must not be an IPv4-mapped IPv6 address");
        }
        Ok(address) if address.to_string() != text => {
            errors.invalid(path, text, &format!("must be in canonical form (\"{address}\")"));
        }
        Ok(_) => (),
        Err(_) if has_leading_zeros(text) => errors.invalid(path, text, "must not have leading 0s"),
        Err(_) => errors.invalid(path, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
    }
}

/// A network such as `10.9.8.0/24`, without host bits.
pub fn cidr(path: &Path, text: &str, errors: &mut FieldErrors) {
    let Some((address, length)) = parse_cidr(text) else {
        return errors.invalid(path, text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
    };
    let (bits, width) = match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    };
    let host_bits = width - length;
    let host_mask = if host_bits == 128 { u128::MAX } else { (1 << host_bits) - 1 };
    if bits & host_mask != 0 {
        errors.invalid(path, text, "must not have bits set beyond the prefix length");
    } else if format!("{address}/{length}") != text {
        errors.invalid(path, text, &format!("must be in canonical form (\"{address}/{length}\")"));
    }
}

/// Address and prefix length of `text`; host bits are allowed here.
pub fn parse_cidr(text: &str) -> Option<(IpAddr, u32)> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let width = if address.is_ipv4() { 32 } else { 128 };
    let is_number = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    let length: u32 = length.parse().ok().filter(|length| is_number && *length <= width)?;
    Some((address, length))
}

/// `010.0.0.1` was once read as octal by some and decimal by others, and is refused for that.
fn has_leading_zeros(text: &str) -> bool {
    let parts: Vec<_> = text.split('.').collect();
    parts.len() == 4
        && parts.iter().all(|part| {
            let digits = part.trim_start_matches('0');
            !part.is_empty() && (digits.is_empty() || digits.parse::<u8>().is_ok())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: fn(&Path, &str, &mut FieldErrors), text: &str, expected: &str) {
        let mut errors = FieldErrors::default();
        rule(&Path::new("f"), text, &mut errors);
        let found =
            errors.0.iter().map(|error| error.message.rsplit(": ").next().unwrap()).collect::<Vec<_>>();
        assert_eq!(found.join("; "), expected, "{text}");
    }

    #[test]
    fn addresses_are_canonical() {
        const BAD: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        for (text, expected) in [
            ("10.0.0.1", ""),
            ("::1", ""),
            ("2001:db8::1", ""),
            ("2001:DB8::1", "must be in canonical form (\"2001:db8::1\")"),
            ("::ffff:10.0.0.1", "must not be an IPv4-mapped IPv6 address"),
            ("010.0.0.1", "must not have leading 0s"),
            ("300.0.0.1", BAD),
            ("10.0.0", BAD),
            ("", BAD),
            ("localhost", BAD),
        ] {
            check(ip, text, expected);
        }
    }

    #[test]
    fn networks_have_no_host_bits() {
        const BAD: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        for (text, expected) in [
            ("10.0.0.0/8", ""),
            ("0.0.0.0/0", ""),
            ("::/0", ""),
            ("2001:db8::/64", ""),
            ("10.0.0.1/32", ""),
            ("10.0.0.1/8", "must not have bits set beyond the prefix length"),
            ("10.0.0.0/33", BAD),
            ("10.0.0.0", BAD),
            ("10.0.0.0/", BAD),
            ("10.0.0.0/+8", BAD),
            ("10.0.0.0/08", "must be in canonical form (\"10.0.0.0/8\")"),
        ] {
            check(cidr, text, expected);
        }
    }
}
