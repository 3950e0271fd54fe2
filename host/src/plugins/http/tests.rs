//! Requests against real servers on loopback.

use std::net::SocketAddr;

use http_body_util::{Empty, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;
use crate::traces::tests::{attempt, recording};

/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server that answers each connection's first request with `head` and `body`, then holds the connection open.
/// Tells of every connection that the client has closed.
struct Server {
    address: SocketAddr,
    closed: mpsc::UnboundedReceiver<()>,
}

impl Server {
    async fn start(answer: Vec<u8>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, closed) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(serve(connection, answer.clone(), tell.clone()));
            }
        });
        Server { address, closed }
    }

    async fn closed(&mut self) {
        tokio::time::timeout(PATIENCE, self.closed.recv()).await.expect("the connection is closed");
    }
}

async fn serve(mut connection: TcpStream, answer: Vec<u8>, closed: mpsc::UnboundedSender<()>) {
    let mut buffer = vec![0; 64 << 10];
    if connection.read(&mut buffer).await.unwrap_or(0) > 0 {
        _ = connection.write_all(&answer).await;
        while connection.read(&mut buffer).await.unwrap_or(0) > 0 {}
    }
    _ = closed.send(());
}

fn grant(host: &str, port: u16) -> HttpGrant {
    HttpGrant { scheme: "http".to_owned(), host: host.to_owned(), port, addresses: Vec::new() }
}

fn access(grants: Vec<HttpGrant>) -> HttpAccess {
    let plugin: Arc<str> = "p".into();
    HttpAccess::new(plugin.clone(), grants, Arc::new(Denials::new(plugin))).unwrap()
}

fn request(url: &str) -> Request<WasiBody> {
    let empty = Empty::new().map_err(|never| match never {}).boxed_unsync();
    Request::builder().uri(url).body(empty).unwrap()
}

async fn send(access: &HttpAccess, url: &str) -> Result<Response<WasiBody>, Error> {
    let sent = access.send(request(url), RequestOptions::default(), None);
    tokio::time::timeout(PATIENCE, sent).await.unwrap()
}

#[tokio::test]
async fn a_guest_has_so_many_requests_at_once_and_gets_a_place_back_with_each_answer() {
    let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
    let server = Server::start(answer.to_vec()).await;
    let port = server.address.port();
    let network = Outbound::network(Arc::new(access(vec![grant("127.0.0.1", port)])));
    let mut guest = Requests::new(network.of_guest());
    let url = format!("http://127.0.0.1:{port}/");
    let mut send = || {
        let done: Done = Box::new(std::future::ready(Ok(())));
        Box::into_pin(guest.send_request(request(&url), None, done))
    };
    let mut answers = Vec::new();
    for _ in 0..MAX_AT_ONCE {
        answers.push(send().await.unwrap().0);
    }
    assert!(matches!(send().await, Err(Error::ConnectionLimitReached)), "unread answers count");
    answers.pop();
    _ = send().await.unwrap();
    let mut other = Requests::new(network.of_guest());
    let sent = other.send_request(request(&url), None, Box::new(std::future::ready(Ok(()))));
    _ = Box::into_pin(sent).await.unwrap();
}

#[tokio::test]
async fn a_granted_origin_is_reached_and_others_are_denied() {
    let server = Server::start(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()).await;
    let port = server.address.port();
    let access = access(vec![grant("127.0.0.1", port), grant("localhost", port)]);
    let response = send(&access, &format!("http://127.0.0.1:{port}/a")).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
    for denied in ["http://127.0.0.1:1/", "http://example.com/", "http://[::ffff:127.0.0.1]/"] {
        assert!(matches!(send(&access, denied).await, Err(Error::HttpRequestDenied)), "{denied}");
    }
    let prohibited = send(&access, &format!("http://LOCALHOST.:{port}/")).await;
    assert!(matches!(prohibited, Err(Error::DestinationIpProhibited)), "{prohibited:?}");
    let user_info = send(&access, &format!("http://u@127.0.0.1:{port}/")).await;
    assert!(matches!(user_info, Err(Error::HttpRequestUriInvalid)), "{user_info:?}");
}

#[tokio::test]
async fn a_name_reaches_private_addresses_when_they_are_granted() {
    let server = Server::start(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()).await;
    let port = server.address.port();
    let addresses = vec!["127.0.0.0/8".parse().unwrap()];
    let access = access(vec![HttpGrant { addresses, ..grant("localhost", port) }]);
    let response = send(&access, &format!("http://localhost:{port}/")).await.unwrap();
    assert_eq!(response.status(), 204);
}

#[tokio::test]
async fn odd_spellings_of_loopback_resolve_to_it_and_are_prohibited() {
    let server = Server::start(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()).await;
    let port = server.address.port();
    for host in ["2130706433", "0x7f.1", "127.1"] {
        let access = access(vec![grant(host, port)]);
        let answer = send(&access, &format!("http://{host}:{port}/")).await;
        let denied = matches!(answer, Err(Error::DestinationIpProhibited | Error::DnsError { .. }));
        assert!(denied, "{host}: {answer:?}");
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let answer = b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n";
    let server = Server::start(answer.to_vec()).await;
    let port = server.address.port();
    let access = access(vec![grant("127.0.0.1", port)]);
    let response = send(&access, &format!("http://127.0.0.1:{port}/")).await.unwrap();
    assert_eq!(response.status(), 302);
}

#[tokio::test]
async fn a_body_without_end_is_cut() {
    let mut answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n".to_vec();
    answer.resize(answer.len() + 2 * MAX_RESPONSE_BYTES, b'x');
    let mut server = Server::start(answer).await;
    let port = server.address.port();
    let access = access(vec![grant("127.0.0.1", port)]);
    let response = send(&access, &format!("http://127.0.0.1:{port}/")).await.unwrap();
    let error = response.into_body().collect().await.unwrap_err();
    assert!(matches!(error, Error::HttpResponseBodySize(Some(_))), "{error:?}");
    server.closed().await;
}

#[tokio::test]
async fn a_silent_server_is_given_up_and_its_connection_closed() {
    let mut silent = Server::start(Vec::new()).await;
    let port = silent.address.port();
    let access = access(vec![grant("127.0.0.1", port)]);
    let hasty =
        RequestOptions { first_byte_timeout: Some(Duration::from_millis(50)), ..RequestOptions::default() };
    let answer = access.send(request(&format!("http://127.0.0.1:{port}/")), hasty, None).await;
    assert!(matches!(answer, Err(Error::HttpResponseTimeout)), "{answer:?}");
    silent.closed().await;
}

#[tokio::test]
async fn a_body_that_stops_flowing_is_given_up() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc".to_vec();
    let mut server = Server::start(answer).await;
    let port = server.address.port();
    let access = access(vec![grant("127.0.0.1", port)]);
    let hasty = RequestOptions {
        between_bytes_timeout: Some(Duration::from_millis(50)),
        ..RequestOptions::default()
    };
    let response = access.send(request(&format!("http://127.0.0.1:{port}/")), hasty, None).await.unwrap();
    let error = response.into_body().collect().await.unwrap_err();
    assert!(matches!(error, Error::ConnectionReadTimeout), "{error:?}");
    server.closed().await;
}

#[tokio::test]
async fn nobody_there_is_a_refused_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let answer = send(&access(vec![grant("127.0.0.1", port)]), &format!("http://127.0.0.1:{port}/")).await;
    assert!(matches!(answer, Err(Error::ConnectionRefused)), "{answer:?}");
}

#[tokio::test]
async fn a_request_that_is_too_large_is_given_up() {
    let server = Server::start(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()).await;
    let port = server.address.port();
    let access = access(vec![grant("127.0.0.1", port)]);
    let large = Full::new(Bytes::from(vec![0; MAX_REQUEST_BYTES + 1]));
    let request = Request::post(format!("http://127.0.0.1:{port}/"))
        .body(large.map_err(|never| match never {}).boxed_unsync())
        .unwrap();
    let answer = access.send(request, RequestOptions::default(), None).await;
    assert!(matches!(answer, Err(Error::HttpRequestBodySize(Some(_)))), "{answer:?}");
}

#[test]
fn a_grant_for_https_needs_root_certificates_and_nothing_else() {
    let grant = HttpGrant { scheme: "https".to_owned(), ..grant("example.com", 443) };
    let plugin: Arc<str> = "p".into();
    // A machine without certificates is told so; neither may panic.
    if let Err(error) = HttpAccess::new(plugin.clone(), vec![grant], Arc::new(Denials::new(plugin))) {
        assert!(error.to_string().contains("cert"), "{error}");
    }
}

/// A server that tells the head of every request and answers 404.
async fn heads() -> (u16, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, heads) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok((mut connection, _)) = listener.accept().await {
            let read = connection.read(&mut buffer).await.unwrap_or(0);
            _ = tell.send(String::from_utf8_lossy(&buffer[..read]).into_owned());
            let answer = b"HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            _ = connection.write_all(answer).await;
        }
    });
    (port, heads)
}

#[tokio::test]
async fn receivers_hear_of_the_trace_unless_the_guest_tells_them_of_another() {
    const OTHER: &str = "00-000000000000000000000000000000ab-00000000000000cd-01";
    let (tracer, mut recording) = recording();
    let attempt = attempt(&tracer);
    let (port, mut heads) = heads().await;
    let mut guest = Requests::new(Outbound::network(Arc::new(access(vec![grant("127.0.0.1", port)]))));
    let url = format!("http://127.0.0.1:{port}/");
    let mut send = |trace: Option<HookTrace>, request: Request<WasiBody>| {
        guest.trace = trace;
        Box::into_pin(guest.send_request(request, None, Box::new(std::future::ready(Ok(())))))
    };
    let trace = HookTrace::of(&attempt);

    _ = send(None, request(&url)).await.unwrap();
    assert!(!heads.recv().await.unwrap().contains("traceparent"), "nothing without a trace");
    _ = send(trace.clone(), request(&url)).await.unwrap();
    let head = heads.recv().await.unwrap();
    let told = format!("traceparent: 00-{:032x}-", attempt.context.trace);
    assert!(head.contains(&told) && head.contains("-01\r\n"), "{head}");
    let mut own = request(&url);
    own.headers_mut().insert(TRACEPARENT, HeaderValue::from_static(OTHER));
    _ = send(trace.clone(), own).await.unwrap();
    let head = heads.recv().await.unwrap();
    assert!(head.contains(OTHER) && head.matches("traceparent").count() == 1, "{head}");
    assert!(send(trace.clone(), request("http://127.0.0.1:1/")).await.is_err());
    drop(send(trace, request(&url)));
    assert_eq!(recording.ended(), ["http 404!", "http 404!", "http failed!", "http cut!"]);
}
