//! The login against a server whose answers are made here.

use pgvane_loadtest::messages::{fatal, message, parameter_status, ready};
use proptest::prelude::*;

use super::*;
use crate::protocol::scram::for_tests::{role_key, signature};

const NONCE: Nonce = *b"eighteen of random";
const SALT: &[u8] = b"0123456789abcdef";

fn key() -> RoleKey {
    role_key("pencil", SALT, 4096)
}

fn with_key() -> LoginAgain {
    LoginAgain::new(Credential::Scram(Arc::new(key())), &NONCE)
}

fn without_key() -> LoginAgain {
    LoginAgain::new(Credential::Nothing, &NONCE)
}

fn request(code: u32, content: &[u8]) -> Vec<u8> {
    message(b'R', &[&code.to_be_bytes()[..], content].concat())
}

fn authentication_ok() -> Vec<u8> {
    request(0, b"")
}

fn welcome() -> Vec<u8> {
    let parameters = [parameter_status("in_hot_standby", "off"), parameter_status("server_version", "18.1")];
    [parameters.concat(), message(b'K', &[0, 0, 0, 7, 1, 2, 3, 4]), ready(b'I')].concat()
}

fn session() -> LoggedIn {
    let parameter = |name: &str, value: &str| (name.as_bytes().into(), value.as_bytes().into());
    LoggedIn {
        parameters: vec![parameter("in_hot_standby", "off"), parameter("server_version", "18.1")],
        key: CancelKey::from_backend_key_data(&[0, 0, 0, 7, 1, 2, 3, 4]),
        rest: Vec::new(),
    }
}

/// A server that has the verifier of this key, and what it has got from the client so far.
struct Server {
    key: RoleKey,
    client_first: String,
    server_first: String,
}

impl Server {
    fn offers() -> Vec<u8> {
        request(SASL, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0")
    }

    /// Takes the client's first message, and returns its own.
    fn begins(key: RoleKey, client: &Step, salt: &[u8]) -> (Server, Vec<u8>) {
        let Step::Send(sent) = client else { panic!("{client:?}") };
        let start = HEADER_LENGTH + SCRAM.len() + 1 + 4 + NO_BINDING.len();
        let client_first = String::from_utf8(sent[start..].to_vec()).expect("is text");
        let nonce = client_first.strip_prefix("n=,r=").expect("is a nonce");
        let server_first = format!("r={nonce}+server,s={},i=4096", BASE64.encode(salt));
        let first = request(SASL_CONTINUE, server_first.as_bytes());
        (Server { key, client_first, server_first }, first)
    }

    /// Takes the proof, and returns its signature if the proof is right.
    fn ends(&self, client: &Step) -> Option<Vec<u8>> {
        let Step::Send(sent) = client else { panic!("{client:?}") };
        let text = std::str::from_utf8(&sent[HEADER_LENGTH..]).expect("is text");
        let (without_proof, proof) = text.rsplit_once(",p=").expect("has a proof");
        let auth_message = [&self.client_first, &self.server_first, without_proof].map(str::as_bytes).join(&b',');
        let proof = scram::key(proof).expect("is one");
        self.key.verifier().role_key(&auth_message, &proof)?;
        Some(request(SASL_FINAL, format!("v={}", signature(&self.key, &auth_message)).as_bytes()))
    }
}

#[test]
fn with_the_roles_key_a_server_that_has_its_verifier_lets_it_in() {
    let mut login = with_key();
    let first = login.take(&Server::offers());
    let (server, server_first) = Server::begins(key(), &first, SALT);
    let proof = login.take(&server_first);
    let server_final = server.ends(&proof).expect("the proof is right");
    let rest = [server_final, authentication_ok(), welcome()].concat();
    assert_eq!(login.take(&rest), Step::Done(session()));
}

#[test]
fn a_server_that_asks_nothing_lets_it_in_without_a_key() {
    let stream = [authentication_ok(), welcome(), message(b'N', b"\0")].concat();
    let expected = LoggedIn { rest: message(b'N', b"\0"), ..session() };
    assert_eq!(without_key().take(&stream), Step::Done(expected));
}

#[test]
fn in_whatever_pieces_the_answer_comes_the_result_is_the_same() {
    let stream = [authentication_ok(), welcome()].concat();
    let mut login = without_key();
    let (last, before) = stream.split_last().expect("is not empty");
    before.iter().for_each(|byte| assert_eq!(login.take(&[*byte]), Step::Wait));
    assert_eq!(login.take(&[*last]), Step::Done(session()));
}

#[test]
fn a_changed_password_is_noticed_before_a_proof_is_sent() {
    for changed in [role_key("eraser", b"another salt", 4096), role_key("pencil", b"another salt", 4096)] {
        let mut login = with_key();
        let first = login.take(&Server::offers());
        let (_, server_first) = Server::begins(changed, &first, b"another salt");
        assert_eq!(login.take(&server_first), Step::Refused(LoginRefused::PasswordChanged));
    }
    let mut login = with_key();
    let first = login.take(&Server::offers());
    let (server, _) = Server::begins(key(), &first, SALT);
    let iterations = server.server_first.replace("i=4096", "i=8192");
    let step = login.take(&request(SASL_CONTINUE, iterations.as_bytes()));
    assert_eq!(step, Step::Refused(LoginRefused::PasswordChanged));
}

/// A server that only claims to be the new leader knows neither the verifier nor the password.
#[test]
fn a_server_that_cannot_prove_that_it_has_the_verifier_is_not_believed() {
    let up_to_the_proof = || {
        let mut login = with_key();
        let first = login.take(&Server::offers());
        let (stranger, server_first) = Server::begins(role_key("eraser", SALT, 4096), &first, SALT);
        let proof = login.take(&server_first);
        assert_eq!(stranger.ends(&proof), None);
        login
    };
    let forged = request(SASL_FINAL, format!("v={}", BASE64.encode([7; 32])).as_bytes());
    let error = request(SASL_FINAL, b"e=other-error");
    for answer in [forged, error, authentication_ok(), request(SASL_FINAL, b"")] {
        assert_eq!(up_to_the_proof().take(&answer), Step::Refused(LoginRefused::Unproven));
    }
    let mut login = with_key();
    assert!(matches!(login.take(&Server::offers()), Step::Send(_)));
    assert_eq!(login.take(&authentication_ok()), Step::Refused(LoginRefused::Unproven));
    assert_eq!(with_key().take(&authentication_ok()), Step::Refused(LoginRefused::NotAsked));
}

#[test]
fn an_exchange_with_a_nonce_that_is_not_ours_is_refused() {
    for nonce in ["", "+server", "another+server"] {
        let mut login = with_key();
        login.take(&Server::offers());
        let own = if nonce.is_empty() { BASE64.encode(NONCE) } else { nonce.to_owned() };
        let server_first = format!("r={own},s={},i=4096", BASE64.encode(SALT));
        let step = login.take(&request(SASL_CONTINUE, server_first.as_bytes()));
        assert_eq!(step, Step::Refused(LoginRefused::Unexpected), "{nonce}");
    }
}

#[test]
fn what_cannot_be_answered_is_refused_in_plain_words() {
    let told = |mut login: LoginAgain, stream: &[u8]| match login.take(stream) {
        Step::Refused(why) => why.to_string(),
        step => panic!("{step:?}"),
    };
    let cannot = |what: &str| format!("the server asks for {what}, which pgvane cannot answer");
    assert_eq!(told(with_key(), &request(3, b"")), cannot("the password in plaintext"));
    assert_eq!(told(with_key(), &request(5, b"salt")), cannot("an MD5 hash"));
    assert_eq!(told(without_key(), &request(7, b"")), cannot("GSSAPI"));
    assert_eq!(told(with_key(), &request(SASL, b"OAUTHBEARER\0\0")), cannot("SASL with OAUTHBEARER"));
    let password = "the server asks for a password, and the server before did not";
    assert_eq!(told(without_key(), &Server::offers()), password);
    let replica = [authentication_ok(), parameter_status("in_hot_standby", "on")].concat();
    assert_eq!(told(without_key(), &replica), "the server is in recovery");
    assert_eq!(told(without_key(), &fatal("28000", "no entry")), "no entry (SQLSTATE 28000)");
    assert_eq!(told(without_key(), b"HTTP/1.1 400 Bad Request"), "the server does not answer as PostgreSQL does");
    assert_eq!(told(without_key(), &ready(b'I')), "the server does not answer as PostgreSQL does");
}

#[test]
fn only_a_refusal_that_may_pass_is_passing() {
    let is_passing = |sqlstate: &str| match without_key().take(&fatal(sqlstate, "text")) {
        Step::Refused(why) => why.is_passing(),
        step => panic!("{step:?}"),
    };
    assert!(["57P03", "57P01", "53300"].into_iter().all(is_passing));
    assert!(!["28P01", "28000", "3D000"].into_iter().any(is_passing));
}

#[test]
fn a_server_that_sends_without_end_is_refused() {
    let (mut login, notice) = (without_key(), message(b'N', &[b'x'; 1000]));
    let most = RECEIVED_MAX / notice.len();
    (0..most).for_each(|_| assert_eq!(login.take(&notice), Step::Wait));
    assert_eq!(login.take(&notice), Step::Refused(LoginRefused::Unexpected));
}

#[test]
fn keys_are_not_shown() {
    let mut login = with_key();
    let shown = format!("{login:?}");
    assert!(shown.contains("RoleKey") && !shown.contains("client_key"), "{shown}");
    let (server, server_first) = Server::begins(key(), &login.take(&Server::offers()), SALT);
    let proof = login.take(&server_first);
    assert!(server.ends(&proof).is_some() && !format!("{login:?}").contains("p="));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_let_it_in(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        messages in proptest::collection::vec((prop_oneof![Just(b'R'), Just(b'S'), Just(b'Z'), any::<u8>()],
            proptest::collection::vec(prop_oneof![Just(0u8), 0u8..14, any::<u8>()], 0..40)), 0..6),
    ) {
        let stream: Vec<u8> = messages.iter().flat_map(|(kind, body)| message(*kind, body)).collect();
        for stream in [bytes, stream] {
            let _ = without_key().take(&stream);
            prop_assert!(!matches!(with_key().take(&stream), Step::Done(_)), "it has not proved anything");
            let mut asked = with_key();
            asked.take(&Server::offers());
            prop_assert!(!matches!(asked.take(&stream), Step::Done(_)), "it has not proved anything");
        }
    }
}

#[test]
fn a_server_in_recovery_is_accepted_by_a_login_in_advance() {
    let parameters = [parameter_status("in_hot_standby", "on"), parameter_status("server_version", "18.1")].concat();
    let welcome = [authentication_ok(), parameters, ready(b'I')].concat();
    let Step::Done(session) = without_key().in_recovery_too().take(&welcome) else { panic!("no session") };
    assert_eq!(session.parameters[0], (b"in_hot_standby"[..].into(), b"on"[..].into()));
}
