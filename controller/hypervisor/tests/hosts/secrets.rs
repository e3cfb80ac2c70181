//! Secrets, and volumes that they open.

use evenkeel_crds::quantity::Bytes;
use evenkeel_engine::port::*;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::support::*;

fn value(text: &str) -> SecretValue {
    SecretValue::new(Zeroizing::new(text.as_bytes().to_vec()))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "wants real hosts"]
async fn a_secret_is_brought_and_opens_new_volumes() {
    let (mut one, _) = both();
    let pool = one.facts().await.0.pools;
    let pool = pool.iter().find(|pool| pool.active).unwrap();
    let host = &one.handle;
    let (id, by) = (Uuid::new_v4(), Uuid::new_v4());
    let secret = SecretFacts {
        id,
        description: "for a test, <&>".into(),
        usage: Some(SecretUsage {
            kind: "volume".into(),
            name: format!("/test/{id}"),
        }),
        ephemeral: false,
        private: false,
        brought_by: Some(by),
    };
    assert_eq!(host.secret(id).await.unwrap(), None);
    host.create_secret(&secret, value("a <ü>")).await.unwrap();
    assert_eq!(host.secret(id).await.unwrap(), Some(secret.clone()));
    assert_eq!(host.secret_value(id).await.unwrap(), Some(value("a <ü>")));

    // Any bytes are carried; only QEMU wants text without a zero.
    let bytes = SecretFacts {
        id: Uuid::new_v4(),
        usage: None,
        ..secret.clone()
    };
    host.create_secret(&bytes, value("a\0b")).await.unwrap();
    assert_eq!(
        host.secret_value(bytes.id).await.unwrap(),
        Some(value("a\0b"))
    );
    host.remove_secret(bytes.id).await.unwrap();

    // Nothing of what is there is changed, whatever is the same about it.
    let other = SecretFacts {
        id: Uuid::new_v4(),
        ..secret.clone()
    };
    for one in [&secret, &other] {
        let refused = host.create_secret(one, value("other")).await;
        assert_eq!(refused.unwrap_err().fault, Fault::Exists);
    }
    assert_eq!(host.secret(other.id).await.unwrap(), None);
    host.keep_secret(id).await.unwrap();
    let kept = host.secret(id).await.unwrap().unwrap();
    assert_eq!(
        (kept.brought_by, kept.description),
        (None, secret.description)
    );
    assert_eq!(host.secret_value(id).await.unwrap(), Some(value("a <ü>")));
    assert!(host.secret_users(id).await.unwrap().is_empty());

    for format in ["raw", "qcow2"] {
        let volume = NewVolume {
            pool: pool.name.clone(),
            name: format!("secret-{id}.{format}"),
            format: format.to_owned(),
            capacity: Bytes(24 << 20),
            backing: None,
            secret: Some(id),
        };
        let made = timed(format, host.create_volume(&volume)).await.unwrap();
        let again = host.create_volume(&volume).await.unwrap_err();
        assert_eq!(again.fault, Fault::Exists);
        // As the guest sees it; and not more than what is taken for an empty one of ours.
        let found = host.volume(&made).await.unwrap().unwrap();
        assert_eq!(found.capacity, volume.capacity);
        assert!(found.allocated.0 < 5 << 20, "{found:?}");
        let file = host.file(&made).await.unwrap().unwrap();
        assert_eq!(
            (file.virtual_size, file.format.as_str()),
            (volume.capacity, format)
        );
        assert!(
            format == "qcow2" || file.length > volume.capacity,
            "{file:?}"
        );
        host.delete_volume(&made).await.unwrap();
    }
    for _ in 0..2 {
        host.remove_secret(id).await.unwrap();
    }
    host.keep_secret(id).await.unwrap();
    assert_eq!(host.secret(id).await.unwrap(), None);
}
