//! Why a REST API gave no usable answer, and what to change if the URL in the configuration may be the cause.

use std::error::Error;
use std::io;

use reqwest::StatusCode;
use rustls::{AlertDescription, CertificateError};

use crate::cluster::node::CheckError;

/// The most of an answer that is shown, in characters.
const EXCERPT_LENGTH_MAX: usize = 80;

const WRONG_URL: &str = "if this REST API has never answered, its URL may be wrong: write https:// if it uses TLS, and \
                         the port of Patroni (8008 by default), not that of PostgreSQL";

/// What the innermost cause of an HTTP client's error says.
enum Cause {
    Refused,
    TimedOut,
    /// The connection was closed before the answer began or ended.
    Closed,
    /// There was an answer that is not HTTP.
    NotHttp,
    /// The handshake failed.
    Tls(rustls::Error),
    Other(String),
}

/// Why a request failed, without the words that the HTTP client adds.
pub fn last_cause(error: &reqwest::Error) -> String {
    match cause(error) {
        Cause::Refused => "connection refused".to_owned(),
        Cause::TimedOut => "no answer in time".to_owned(),
        Cause::Closed => "the connection was closed without a complete answer".to_owned(),
        Cause::NotHttp => "the answer is not HTTP".to_owned(),
        Cause::Tls(error) => tls(&error),
        Cause::Other(cause) => cause,
    }
}

/// The error of a check. `is_answered` if the status of the answer has arrived: then the URL is not the cause.
pub(super) fn check_error(error: &reqwest::Error, is_answered: bool) -> CheckError {
    match cause(error) {
        Cause::Refused => CheckError::Refused,
        Cause::TimedOut => CheckError::TimedOut,
        Cause::Closed if !is_answered => {
            CheckError::Unreachable(format!("the connection was closed without an answer; {WRONG_URL}"))
        }
        Cause::NotHttp if !is_answered => CheckError::Garbled(format!("it is not HTTP; {WRONG_URL}")),
        Cause::Tls(error) => CheckError::Unreachable(tls(&error)),
        Cause::Closed | Cause::NotHttp | Cause::Other(_) => CheckError::Unreachable(last_cause(error)),
    }
}

/// The error for an answer that is not the JSON that was expected.
pub(super) fn not_patroni(status: StatusCode, body: &[u8], error: &serde_json::Error) -> CheckError {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * EXCERPT_LENGTH_MAX)]).into_owned();
    let first_line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let shown: String = first_line.chars().filter(|c| !c.is_control()).take(EXCERPT_LENGTH_MAX).collect();
    CheckError::Garbled(match shown.as_str() {
        json if json.starts_with('{') => format!("{error} (HTTP status {status})"),
        "" => format!("HTTP status {status} without a text: is this the URL of Patroni's REST API?"),
        text => format!("HTTP status {status}, \"{text}\": is this the URL of Patroni's REST API, http or https?"),
    })
}

fn cause(error: &reqwest::Error) -> Cause {
    let mut last: &(dyn Error + 'static) = error;
    loop {
        if let Some(error) = last.downcast_ref::<hyper::Error>() {
            if error.is_incomplete_message() {
                return Cause::Closed;
            }
            if error.is_parse() {
                return Cause::NotHttp;
            }
        }
        // an I/O error's `source` leaves out the error that it holds
        let held = last.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        match held.map(|held| held as &(dyn Error + 'static)).or_else(|| last.source()) {
            Some(deeper) => last = deeper,
            None => break,
        }
        if let Some(error) = last.downcast_ref::<io::Error>()
            && let Some(cause) = of_io(error)
        {
            return cause;
        }
    }
    match last.downcast_ref::<rustls::Error>() {
        Some(error) => Cause::Tls(error.clone()),
        None if error.is_timeout() => Cause::TimedOut,
        None => Cause::Other(last.to_string()),
    }
}

fn of_io(error: &io::Error) -> Option<Cause> {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Some(Cause::Refused),
        io::ErrorKind::TimedOut => Some(Cause::TimedOut),
        io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => {
            Some(Cause::Closed)
        }
        _ => None,
    }
}

fn tls(error: &rustls::Error) -> String {
    let advice = match error {
        rustls::Error::InvalidMessage(_) => {
            return "the port does not use TLS: write http:// instead of https:// in the URL".to_owned();
        }
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "name the file with the certificate of its authority in patroni_tls.ca_file"
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "write a name or an address of the certificate in the URL",
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the REST API requires a client certificate: set patroni_tls.client_identity_file"
        }
        rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            "this may be the port of PostgreSQL: write that of Patroni (8008 by default)"
        }
        _ => return error.to_string(),
    };
    format!("{error}: {advice}")
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::probe::rest_client::http_client;

    /// A port whose connections get this answer to whatever comes first, and are closed.
    async fn port_that_answers(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("is bound");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut vec![0; 16 << 10]).await;
                let _ = stream.write_all(answer).await;
            }
        });
        address
    }

    async fn failure(url: &str) -> reqwest::Error {
        let client = http_client().tls_certs_only([]).timeout(Duration::from_secs(20)).build().expect("a client");
        client.get(url).send().await.expect_err(url)
    }

    #[tokio::test]
    async fn a_wrong_scheme_and_a_port_of_another_program_are_named() {
        const TLS_ALERT: &[u8] = b"\x15\x03\x03\x00\x02\x02\x46";
        const POSTGRES_ERROR: &[u8] = b"E\x00\x00\x00\x20SFATAL\x00C08P01\x00Mno\x00\x00";
        for (scheme, answer, told) in [
            ("https", &b"HTTP/1.0 400 Bad request version\r\n\r\n"[..], "write http:// instead of https://"),
            ("http", b"", "the port of Patroni (8008 by default), not that of PostgreSQL"),
            ("https", b"", "the port of Patroni (8008 by default), not that of PostgreSQL"),
            ("http", TLS_ALERT, "write https:// if it uses TLS"),
            ("http", POSTGRES_ERROR, "not that of PostgreSQL"),
        ] {
            let address = port_that_answers(answer).await;
            let error = failure(&format!("{scheme}://{address}/primary")).await;
            let shown = check_error(&error, false).to_string();
            assert!(shown.contains(told), "{scheme}, {answer:?}: {shown}");
            assert!(!shown.contains("error sending request"), "{shown}");
            if answer.is_empty() {
                let later = check_error(&error, true).to_string();
                assert!(!later.contains("Patroni"), "the URL is not the cause: {later}");
            }
        }
    }

    #[tokio::test]
    async fn the_last_cause_is_what_the_client_itself_would_leave_out() {
        let error = failure("http://127.0.0.1:1/primary").await;
        assert!(error.to_string().starts_with("error sending request"), "{error}");
        assert_eq!(last_cause(&error), "connection refused");
        assert_eq!(check_error(&error, false), CheckError::Refused);
    }

    #[test]
    fn an_answer_that_is_not_patronis_is_quoted() {
        let of = |status, body: &str| {
            let error = serde_json::from_str::<bool>(body).expect_err("is not what is expected");
            not_patroni(status, body.as_bytes(), &error).to_string()
        };
        let go = of(StatusCode::BAD_REQUEST, "Client sent an HTTP request to an HTTPS server.\n");
        assert!(go.contains("400") && go.contains("\"Client sent an HTTP request to an HTTPS server.\""), "{go}");
        assert!(of(StatusCode::OK, "{\"a\": 1}").contains("invalid type"));
        assert!(of(StatusCode::NOT_FOUND, "").contains("404"));
        let long = of(StatusCode::OK, &format!("\n\u{1b}[2J{}", "x".repeat(5000)));
        assert!(!long.contains('\u{1b}') && long.len() < 250, "{long}");
    }
}
