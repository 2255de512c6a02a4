//! The store through its public interface, on a real folder.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bytes::Bytes;
use calypte_store::{
    Account, BlobError, FunctionChange, FunctionConfiguration, FunctionState, KeyStatus, OpenError, Store, StoreError,
    TemplateChoice,
};
use calypte_types::{BlobId, FunctionName};

async fn store_with_account(folder: &Path) -> (Store, Account) {
    let store = Store::open(folder).await.unwrap();
    let account = store.create_account("dev").await.unwrap();
    (store, account)
}

fn configuration(handler: &str) -> FunctionConfiguration {
    FunctionConfiguration {
        runtime: "python3.11".to_owned(),
        handler: handler.to_owned(),
        role: "arn:aws:iam::123456789012:role/any".to_owned(),
        description: "ünïcode".to_owned(),
        memory_mib: 128,
        tmp_mib: 512,
        timeout_s: 3,
        environment: BTreeMap::from([("NAME".to_owned(), "value".to_owned())]),
        tags: BTreeMap::new(),
        template: TemplateChoice::Off,
    }
}

fn name(text: &str) -> FunctionName {
    text.parse().unwrap()
}

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let (store, account) = store_with_account(folder.path()).await;
    let key = store.create_access_key(&account.id).await.unwrap();
    store.set_access_key_status(&key.id, KeyStatus::Inactive).await.unwrap();
    let code = store.blobs().put(Bytes::from_static(b"zip")).await.unwrap();
    let failed = FunctionState::Failed { reason: "no handler".to_owned() };
    let function = store.create_function(&account.id, &name("f"), configuration("a.b"), &code, failed).await.unwrap();
    drop(code);
    store.close().await;
    drop(store);

    let store = Store::open(folder.path()).await.unwrap();
    assert_eq!(store.accounts().await.unwrap(), std::slice::from_ref(&account));
    assert_eq!(store.account(&account.id).await.unwrap(), Some(account.clone()));
    assert_eq!(store.account_named("dev").await.unwrap(), Some(account.clone()));
    let read = store.access_key(&key.id).await.unwrap().unwrap();
    assert_eq!((read.status, &read.secret, read.created_at), (KeyStatus::Inactive, &key.secret, key.created_at));
    let read = store.function(&account.id, &name("f")).await.unwrap().unwrap();
    assert_eq!(read, function);
    assert_eq!(store.blobs().get(&read.code.blob).await.unwrap(), "zip");
    assert_eq!(read.code.sha256_base64(), "SnD+mqZDbgLC3qNA+9HjUuTvLYzmylKtJdS5VHH8i/I=");
}

#[tokio::test]
async fn records_refuse_what_contradicts_them() {
    let folder = tempfile::tempdir().unwrap();
    let (store, account) = store_with_account(folder.path()).await;
    assert!(matches!(store.create_account("dev").await, Err(StoreError::AccountExists(_))));
    for bad in ["", "a b", "../x", &"x".repeat(65)] {
        assert!(matches!(store.create_account(bad).await, Err(StoreError::AccountName(_))), "{bad:?}");
    }
    let nobody = "000000000000".parse().unwrap();
    assert!(matches!(store.create_access_key(&nobody).await, Err(StoreError::AccountNotFound(_))));
    let code = store.blobs().put(Bytes::from_static(b"zip")).await.unwrap();
    let create = async |account, text| {
        store.create_function(account, &name(text), configuration("a.b"), &code, FunctionState::Active).await
    };
    assert!(matches!(create(&nobody, "f").await, Err(StoreError::AccountNotFound(_))));
    create(&account.id, "f").await.unwrap();
    assert!(matches!(create(&account.id, "f").await, Err(StoreError::FunctionExists { .. })));
    assert!(matches!(store.delete_function(&account.id, &name("g")).await, Err(StoreError::FunctionNotFound { .. })));
    let key = store.create_access_key(&account.id).await.unwrap();
    store.delete_access_key(&key.id).await.unwrap();
    assert!(matches!(store.delete_access_key(&key.id).await, Err(StoreError::AccessKeyNotFound(_))));
    let change = store.set_access_key_status(&key.id, KeyStatus::Active).await;
    assert!(matches!(change, Err(StoreError::AccessKeyNotFound(_))));
}

#[tokio::test]
async fn an_account_cannot_fill_the_database_with_keys() {
    let folder = tempfile::tempdir().unwrap();
    let (store, account) = store_with_account(folder.path()).await;
    let mut made = 0;
    let refusal = loop {
        match store.create_access_key(&account.id).await {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refusal, StoreError::TooManyAccessKeys { max, .. } if max == made));
    assert_eq!(store.access_keys(&account.id).await.unwrap().len(), made);
}

#[tokio::test]
async fn of_two_updates_of_one_revision_one_wins() {
    let folder = tempfile::tempdir().unwrap();
    let (store, account) = store_with_account(folder.path()).await;
    let code = store.blobs().put(Bytes::from_static(b"one")).await.unwrap();
    let first = store
        .create_function(&account.id, &name("f"), configuration("a.b"), &code, FunctionState::Pending)
        .await
        .unwrap();
    let active = FunctionChange { state: Some(FunctionState::Active), ..Default::default() };
    let second = store.update_function(&first, active).await.unwrap();
    assert_eq!((second.modified_at, &second.state), (first.modified_at, &FunctionState::Active));
    assert_ne!(second.revision_id, first.revision_id);

    let change = || FunctionChange { configuration: Some(configuration("c.d")), ..Default::default() };
    let (left, right) =
        tokio::join!(store.update_function(&second, change()), store.update_function(&second, change()));
    let (won, lost) = if left.is_ok() { (left, right) } else { (right, left) };
    let won = won.unwrap();
    assert!(matches!(lost, Err(StoreError::RevisionMismatch { .. })), "{lost:?}");
    assert_eq!(store.function(&account.id, &name("f")).await.unwrap(), Some(won.clone()));

    store.delete_function(&account.id, &name("f")).await.unwrap();
    let late = store.update_function(&won, change()).await;
    assert!(matches!(late, Err(StoreError::FunctionNotFound { .. })), "{late:?}");
}

#[tokio::test]
async fn pages_cover_every_function_once_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let (store, account) = store_with_account(folder.path()).await;
    let other = store.create_account("other").await.unwrap();
    let code = store.blobs().put(Bytes::from_static(b"zip")).await.unwrap();
    let names = ["B", "a", "b-1", "b_1", "c"];
    for text in names.iter().rev() {
        let name = name(text);
        let create = store.create_function(&account.id, &name, configuration(text), &code, FunctionState::Active);
        create.await.unwrap();
    }
    for limit in 1..=6 {
        let mut seen = Vec::new();
        let mut after = None;
        loop {
            let page = store.functions(&account.id, after.as_ref(), limit).await.unwrap();
            assert!(page.functions.len() <= limit as usize);
            seen.extend(page.functions.iter().map(|function| function.name.to_string()));
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert_eq!(seen, names, "pages of {limit}");
    }
    assert!(store.functions(&other.id, None, 10).await.unwrap().functions.is_empty(), "accounts are apart");
}

#[tokio::test]
async fn a_damaged_blob_is_noticed_and_repaired_by_storing_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let blob = store.blobs().put(Bytes::from_static(b"content")).await.unwrap();
    let file = folder.path().join("blobs/sha256").join(&blob.id().as_str()[..2]).join(blob.id().as_str());
    std::fs::write(&file, b"c0ntent").unwrap();
    assert!(matches!(store.blobs().get(blob.id()).await, Err(BlobError::Damaged(_))));
    store.blobs().put(Bytes::from_static(b"content")).await.unwrap();
    assert_eq!(store.blobs().get(blob.id()).await.unwrap(), "content");
    let absent = BlobId::from_digest([0; 32]);
    assert!(matches!(store.blobs().get(&absent).await, Err(BlobError::NotFound(_))));
}

#[tokio::test]
async fn large_blobs_are_stored_too() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let bytes: Bytes = (0..3_000_000_u32).map(|i| (i * 7 % 251) as u8).collect::<Vec<u8>>().into();
    let blob = store.blobs().put(bytes.clone()).await.unwrap();
    assert_eq!(blob.size_bytes(), 3_000_000);
    assert_eq!(store.blobs().get(blob.id()).await.unwrap(), bytes);
}

#[tokio::test]
async fn collection_takes_what_nobody_uses_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (store, account) = store_with_account(folder.path()).await;
    let used = store.blobs().put(Bytes::from_static(b"used")).await.unwrap();
    store.create_function(&account.id, &name("f"), configuration("a.b"), &used, FunctionState::Active).await.unwrap();
    let used_id = used.id().clone();
    drop(used);
    let held = store.blobs().put(Bytes::from_static(b"held")).await.unwrap();
    let dropped = store.blobs().put(Bytes::from_static(b"dropped")).await.unwrap().id().clone();

    let garbage = store.collect_garbage().await.unwrap();
    assert_eq!((garbage.blobs, garbage.bytes), (1, 7));
    assert!(matches!(store.blobs().get(&dropped).await, Err(BlobError::NotFound(_))));
    store.blobs().get(&used_id).await.unwrap();
    store.blobs().get(held.id()).await.unwrap();

    store.delete_function(&account.id, &name("f")).await.unwrap();
    drop(held);
    assert_eq!(store.collect_garbage().await.unwrap().blobs, 2);
    assert_eq!(store.collect_garbage().await.unwrap().blobs, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collection_never_takes_a_blob_from_under_a_new_function() {
    let folder = tempfile::tempdir().unwrap();
    let (store, account) = store_with_account(folder.path()).await;
    let collector = tokio::spawn({
        let store = store.clone();
        async move {
            loop {
                store.collect_garbage().await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    for round in 0..60 {
        let function = name(&format!("f{}", round % 3));
        let code = store.blobs().put(Bytes::from_static(b"the same code every time")).await.unwrap();
        let create = store.create_function(&account.id, &function, configuration("a.b"), &code, FunctionState::Active);
        let blob = create.await.unwrap().code.blob;
        drop(code);
        store.blobs().get(&blob).await.unwrap();
        store.delete_function(&account.id, &function).await.unwrap();
    }
    collector.abort();
}

#[tokio::test]
async fn what_a_crash_left_half_written_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let blob = store.blobs().put(Bytes::from_static(b"whole")).await.unwrap().id().clone();
    let file = folder.path().join("blobs/sha256").join(&blob.as_str()[..2]).join(blob.as_str());
    let staged = file.with_file_name(format!("{blob}#1"));
    std::fs::write(&staged, b"ha").unwrap();
    store.close().await;
    drop(store);
    let store = Store::open(folder.path()).await.unwrap();
    assert!(!staged.exists());
    store.blobs().get(&blob).await.unwrap();
}

#[tokio::test]
async fn a_folder_in_use_or_of_a_newer_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    assert!(matches!(Store::open(folder.path()).await, Err(OpenError::InUse { .. })));
    store.close().await;
    drop(store);

    let database = format!("sqlite://{}", folder.path().join("calypte.db").display());
    let newer = sqlx::SqlitePool::connect(&database).await.unwrap();
    let future = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                  VALUES (9999, 'from the future', 1, x'00', 0)";
    sqlx::query(future).execute(&newer).await.unwrap();
    newer.close().await;
    assert!(matches!(Store::open(folder.path()).await, Err(OpenError::Newer { found: 9999, .. })));
}

#[tokio::test]
async fn other_users_can_read_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, _) = store_with_account(folder.path()).await;
    assert_eq!(std::fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777, 0o700);
    for file in ["calypte.db", "calypte.db-wal", "calypte.db-shm", "lock"] {
        let mode = std::fs::metadata(folder.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file}");
    }
}
