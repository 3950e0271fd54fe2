//! Limits on what clients may take, through the real sockets: who is over one is told so, and others go on.

use super::*;
use crate::settings::ClientLimits;

pub(crate) const NONE: ClientLimits = ClientLimits {
    connects_per_second: None,
    sessions_per_user: None,
    sessions_per_address: None,
    watched_users: 10_000,
    messages_per_second: None,
    handshake_timeout: Duration::from_secs(10),
    header_timeout: Duration::from_secs(10),
    body_timeout: Duration::from_secs(10),
    read_timeout: Duration::from_secs(30),
};

async fn refusals(gateway: &Gateway, reason: &str) -> u64 {
    let (_, metrics) = get(gateway.admin, "/metrics").await;
    let name = format!("presence_gateway_connections_refused_total{{reason=\"{reason}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap()
}

/// Connects as this user until it works: a session that has ended may not have been counted yet.
async fn until_seated(gateway: &Gateway, user: &str) -> Client {
    soon(async {
        loop {
            match gateway.try_connect(&format!("/v1/connect?user={user}"), &[]).await {
                Ok(client) => return client,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_user_has_so_many_sessions_and_no_more_i8() {
    let limits = ClientLimits { sessions_per_user: Some(2), ..NONE };
    let gateway = Gateway::within(open_to_all(), limits).await;
    let first = gateway.connect("alice").await;
    let _second = gateway.connect("alice").await;
    let (status, detail) = gateway.refused("/v1/connect?user=alice", &[]).await;
    assert_eq!((status, detail.contains("this user has as many sessions")), (429, true), "{detail}");
    assert_eq!(refusals(&gateway, "user_sessions").await, 1);
    let _other = gateway.connect("bob").await;
    drop(first);
    until_seated(&gateway, "alice").await;
}

#[tokio::test]
async fn an_address_has_so_many_sessions_and_no_more_i8() {
    let limits = ClientLimits { sessions_per_address: Some(2), ..NONE };
    let gateway = Gateway::within(open_to_all(), limits).await;
    let first = gateway.connect("alice").await;
    let _second = gateway.connect("bob").await;
    let (status, detail) = gateway.refused("/v1/connect?user=carol", &[]).await;
    assert_eq!((status, detail.contains("from this address")), (429, true), "{detail}");
    assert_eq!(refusals(&gateway, "address_sessions").await, 1);
    drop(first);
    until_seated(&gateway, "carol").await;
}

#[tokio::test]
async fn a_refused_session_takes_no_seat_i8() {
    let limits = ClientLimits { sessions_per_user: Some(1), ..NONE };
    let gateway = Gateway::within(open_to_all(), limits).await;
    gateway.driver.mood.lock().unwrap().refuse = Some(Refused::Starting);
    for _ in 0..3 {
        assert_eq!(gateway.refused("/v1/connect?user=alice", &[]).await.0, 503);
    }
    gateway.driver.mood.lock().unwrap().refuse = None;
    let (status, _) = get(gateway.clients, "/v1/connect?user=alice").await;
    assert!(status.starts_with("http/1.1 426"), "{status}");
    until_seated(&gateway, "alice").await;
}

#[tokio::test]
async fn too_many_connects_a_second_are_put_off() {
    let limits = ClientLimits { connects_per_second: Some(1), ..NONE };
    let gateway = Gateway::within(open_to_all(), limits).await;
    let refused = soon(async {
        loop {
            if let Err(SocketError::Http(response)) = gateway.try_connect("/v1/connect?user=a", &[]).await {
                return response;
            }
        }
    })
    .await;
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (503, &HeaderValue::from(1)));
    assert!(refusals(&gateway, "rate").await >= 1);
    until_seated(&gateway, "alice").await;
}

#[tokio::test]
async fn how_many_a_session_watches_is_a_setting() {
    let gateway = Gateway::within(open_to_all(), ClientLimits { watched_users: 2, ..NONE }).await;
    let mut client = gateway.connect("alice").await;
    client.send(r#"{"type":"watch","users":["a","b","c"]}"#).await;
    let error = client.next().await;
    assert_eq!(error["code"], "too_many");
    assert!(error["message"].as_str().unwrap().contains("more than 2"), "{error}");
    client.send(r#"{"type":"watch","users":["a","b"]}"#).await;
    assert_eq!(client.next().await["type"], "presence");
}

#[tokio::test]
async fn behind_trusted_proxies_the_client_counts_and_not_the_proxy() {
    let mut settings = settings(open_to_all());
    settings.limits.sessions_per_address = Some(1);
    settings.host.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let mut gateway = Gateway::serve(bind(&settings).await.unwrap()).await;
    let path = "/v1/connect?user=alice";
    let _first = gateway.try_connect(path, &[("x-forwarded-for", "203.0.113.7")]).await.unwrap();
    let (_, session) = gateway.driver.opened().await;
    let address = session.attributes.pairs().iter().find(|(name, _)| name == "remote-address");
    assert_eq!(address.map(|(_, value)| value.as_str()), Some("203.0.113.7"));
    // What the client adds before it makes it no other.
    let forged = [("x-forwarded-for", "198.51.100.1, 203.0.113.7"), ("forwarded", "for=198.51.100.1")];
    assert_eq!(gateway.refused(path, &forged).await.0, 429);
    let _other = gateway.try_connect(path, &[("x-forwarded-for", "203.0.113.8")]).await.unwrap();
}
