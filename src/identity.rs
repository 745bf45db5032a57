//! A certificate chain and its private key, read from PEM files.

use openssl::asn1::Asn1Time;
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::x509::{X509NameRef, X509};

use crate::both;
use crate::language::{Language, Words};
use crate::text::Escaped;

/// A certificate chain and its private key.
#[derive(Clone)]
pub struct Identity {
    /// The certificate, followed by the intermediate ones.
    pub chain: Vec<X509>,
    /// The private key of the first certificate.
    pub key: PKey<Private>,
}

impl Identity {
    /// Joins a chain and a key. Fails if the key does not belong to the first certificate.
    pub fn new(chain: Vec<X509>, key: PKey<Private>) -> Result<Identity, Words> {
        let belongs = |certificate: &X509| {
            let public = certificate.public_key();
            public.is_ok_and(|public| public.public_eq(&key))
        };
        match chain.first().is_some_and(belongs) {
            true => Ok(Identity { chain, key }),
            false => Err(Words::new(
                "the key does not belong to the first certificate; put the certificate of this \
                 key first",
                "私钥与第一张证书不匹配；请把此私钥的证书放在首位",
            )),
        }
    }

    /// Converts the identity for `native_tls`, which accepts keys as PKCS#8 only.
    pub fn to_native(&self) -> Result<native_tls::Identity, native_tls::Error> {
        let pem = |certificate: &X509| certificate.to_pem().unwrap_or_default();
        let chain: Vec<u8> = self.chain.iter().flat_map(pem).collect();
        let key = self.key.private_key_to_pem_pkcs8().unwrap_or_default();
        native_tls::Identity::from_pkcs8(&chain, &key)
    }
}

/// The facts about a certificate that are reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The subject.
    pub subject: String,
    /// The issuer.
    pub issuer: String,
    /// When it expires.
    pub expires: String,
    /// In how many days it expires; negative if it has expired.
    pub days_left: i32,
}

impl Summary {
    /// The summary of one certificate.
    pub fn of(certificate: &X509) -> Summary {
        Summary {
            subject: name(certificate.subject_name()),
            issuer: name(certificate.issuer_name()),
            expires: certificate.not_after().to_string(),
            days_left: days_left(certificate).unwrap_or_default(),
        }
    }

    /// The subject and the expiry: `CN=NAME, expires DATE (in N days)` in English.
    pub fn words(&self) -> Words {
        let Summary {
            subject, expires, ..
        } = self;
        let left = self.left();
        let [english, chinese] = [Language::English, Language::Chinese].map(|l| left.say(l));
        Words::made(
            format!("{subject}, expires {expires} {english}"),
            format!("{subject}，有效期至 {expires}{chinese}"),
        )
    }

    /// In how many days it expires, as text in parentheses.
    pub fn left(&self) -> Words {
        match self.days_left {
            i32::MIN..=-1 => Words::new("(expired)", "（已过期）"),
            1 => Words::new("(in 1 day)", "（还有 1 天）"),
            days => both!("(in {days} days)", "（还有 {days} 天）"),
        }
    }
}

fn name(name: &X509NameRef) -> String {
    let parts = name.entries().map(|entry| {
        let kind = entry.object().nid().short_name().unwrap_or("?");
        format!("{kind}={}", Escaped(entry.data().as_slice()))
    });
    parts.collect::<Vec<_>>().join(", ")
}

fn days_left(certificate: &X509) -> Result<i32, ErrorStack> {
    let left = Asn1Time::days_from_now(0)?.diff(certificate.not_after())?;
    // A certificate that expired less than a day ago has 0 days and a negative number of seconds.
    Ok(left.days - i32::from(left.secs < 0))
}

/// Reads the certificates of a PEM file; at least one.
pub fn read_chain(path: &str) -> Result<Vec<X509>, Words> {
    match X509::stack_from_pem(&read(path)?) {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(Words::new(
            "the file contains no PEM certificate; it must have a line -----BEGIN CERTIFICATE-----",
            "文件中没有 PEM 证书；其中应有一行 -----BEGIN CERTIFICATE-----",
        )),
    }
}

/// Reads the private key of a PEM file: PKCS#8 or one of the older forms, whose first line names
/// the algorithm. The error says how to convert a key that cannot be read.
pub fn read_key(path: &str) -> Result<PKey<Private>, Words> {
    let pem = read(path)?;
    let text = String::from_utf8_lossy(&pem);
    if !text.contains("PRIVATE KEY-----") {
        return Err(Words::new(
            "the file contains no PEM private key; it must have a line such as \
             -----BEGIN PRIVATE KEY-----",
            "文件中没有 PEM 私钥；其中应有一行，例如 -----BEGIN PRIVATE KEY-----",
        ));
    }
    // Without a callback, OpenSSL would ask for the passphrase on the terminal.
    let mut is_encrypted = false;
    let key = PKey::private_key_from_pem_callback(&pem, |_| {
        is_encrypted = true;
        Err(ErrorStack::get())
    });
    key.map_err(|_| match is_encrypted {
        true => both!(
            "the key is encrypted; decrypt it: openssl pkcs8 -topk8 -nocrypt -in {path} -out NEW",
            "私钥已加密；请先解密：openssl pkcs8 -topk8 -nocrypt -in {path} -out NEW"
        ),
        false => both!(
            "the key cannot be read; convert it: openssl pkcs8 -topk8 -nocrypt -in {path} -out NEW",
            "无法读取私钥；请先转换：openssl pkcs8 -topk8 -nocrypt -in {path} -out NEW"
        ),
    })
}

fn read(path: &str) -> Result<Vec<u8>, Words> {
    std::fs::read(path).map_err(|error| {
        let cause = crate::error::describe(&error);
        both!(
            "cannot read the file: {cause}; check its path and permissions",
            "无法读取文件：{cause}；请检查路径和权限"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::asn1::Asn1TimeRef;

    fn words(expires: &Asn1TimeRef) -> (i32, String) {
        let mut certificate = X509::builder().expect("OpenSSL works");
        certificate.set_not_after(expires).expect("a time");
        let summary = Summary::of(&certificate.build());
        let words = summary.words();
        (summary.days_left, words.say(Language::English).to_owned())
    }

    #[test]
    fn a_certificate_is_expired_from_its_time_on() {
        let now = std::time::SystemTime::now();
        let now = now.duration_since(std::time::UNIX_EPOCH).expect("later");
        for (hours, days_left, told) in [
            (-36, -2, "(expired)"),
            (-3, -1, "(expired)"),
            (3, 0, "(in 0 days)"),
            (36, 1, "(in 1 day)"),
            (60, 2, "(in 2 days)"),
        ] {
            let seconds = i64::try_from(now.as_secs()).expect("small") + hours * 3600;
            let expires = Asn1Time::from_unix(seconds).expect("a time");
            let (left, words) = words(&expires);
            assert_eq!(left, days_left, "{hours}");
            assert!(words.ends_with(told), "{hours}: {words}");
        }
    }
}
