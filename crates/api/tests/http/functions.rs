//! The operations on functions, through HTTP: real store, real code cache, signed requests.

use crate::support::{FUNCTIONS, Server, base64, create_request, zip};
use serde_json::{Value, json};

fn path(name: &str) -> String {
    format!("{FUNCTIONS}/{name}")
}

#[tokio::test]
async fn a_function_lives_and_dies() {
    let server = Server::start().await;
    let account = server.key.account.clone();
    let created = server.create("hello").await;
    assert_eq!(created["FunctionArn"], format!("arn:aws:lambda:us-east-1:{account}:function:hello"));
    for (member, value) in [
        ("FunctionName", json!("hello")),
        ("Version", json!("$LATEST")),
        ("MemorySize", json!(128)),
        ("Timeout", json!(3)),
        ("State", json!("Active")),
        ("LastUpdateStatus", json!("Successful")),
        ("PackageType", json!("Zip")),
        ("Architectures", json!(["x86_64"])),
        ("EphemeralStorage", json!({"Size": 512})),
        ("Environment", Value::Null),
        ("TracingConfig", json!({"Mode": "PassThrough"})),
        ("SnapStart", json!({"ApplyOn": "None", "OptimizationStatus": "Off"})),
    ] {
        assert_eq!(created[member], value, "{member}");
    }
    let configuration = server.call("GET", &path("hello/configuration"), Value::Null).await;
    assert_eq!((configuration.status.as_u16(), configuration.json()), (200, created.clone()));
    let shown = server.call("GET", &path("hello"), Value::Null).await.json();
    assert_eq!(shown["Configuration"], created);
    let deleted = server.call("DELETE", &path("hello"), Value::Null).await;
    assert_eq!((deleted.status.as_u16(), deleted.body.len()), (204, 0));
    assert_eq!(server.stage.retired.lock().unwrap().pop(), Some(("hello".into(), None)));
    for (method, path) in [("GET", path("hello")), ("GET", path("hello/configuration")), ("DELETE", path("hello"))] {
        let answer = server.call(method, &path, Value::Null).await;
        answer.expect_error(404, "ResourceNotFoundException", "Function not found: arn:aws:lambda:us-east-1:");
    }
}

#[tokio::test]
async fn a_function_answers_to_every_form_of_its_name() {
    let server = Server::start().await;
    let arn = server.create("hello").await["FunctionArn"].as_str().unwrap().to_owned();
    let account = server.key.account.clone();
    for (name, shown) in [
        ("hello".to_owned(), arn.clone()),
        (format!("{account}:function:hello"), arn.clone()),
        (arn.clone(), arn.clone()),
        (arn.replace(':', "%3A"), arn.clone()),
        ("hello:$LATEST".to_owned(), format!("{arn}:$LATEST")),
        ("hello%3A%24LATEST".to_owned(), format!("{arn}:$LATEST")),
    ] {
        let answer = server.call("GET", &path(&format!("{name}/configuration")), Value::Null).await;
        assert_eq!(answer.json()["FunctionArn"], shown, "{name}");
    }
    let qualified = server.call("GET", &path("hello/configuration?Qualifier=%24LATEST"), Value::Null).await;
    assert_eq!(qualified.json()["FunctionArn"], format!("{arn}:$LATEST"));
    for (name, status, error) in [
        ("hello:1", 404, "ResourceNotFoundException"),
        ("hello:live", 404, "ResourceNotFoundException"),
        ("hello%20world", 400, "InvalidParameterValueException"),
        ("%ff", 400, "InvalidParameterValueException"),
        ("999999999999:function:hello", 403, "AccessDeniedException"),
        ("arn:aws:lambda:us-east-1:999999999999:function:hello", 403, "AccessDeniedException"),
        ("arn:aws:lambda:eu-west-1:999999999999:function:hello", 404, "ResourceNotFoundException"),
    ] {
        server.call("GET", &path(name), Value::Null).await.expect_error(status, error, "");
        server.call("POST", &path(&format!("{name}/invocations")), json!({})).await.expect_error(status, error, "");
    }
}

#[tokio::test]
async fn creation_is_refused_with_lambdas_errors() {
    let server = Server::start().await;
    let with = |changes: Value| {
        let mut request = create_request("bad");
        for (member, value) in changes.as_object().unwrap() {
            request[member] = value.clone();
        }
        request
    };
    let code = |bytes: &[u8]| json!({"Code": {"ZipFile": base64(bytes)}});
    let good = zip(&[("bootstrap", &"x".repeat(1000), 0o755)]);
    let invalid = "InvalidParameterValueException";
    for (changes, part) in [
        (json!({"FunctionName": null}), "'functionName'"),
        (json!({"FunctionName": "a b"}), "'functionName'"),
        (json!({"FunctionName": "bad:$LATEST"}), "qualifier"),
        (json!({"Code": null}), "'code'"),
        (json!({"Code": {}}), "source for function code"),
        (json!({"Code": {"S3Bucket": "bucket", "S3Key": "k"}}), "Code.S3Bucket"),
        (json!({"Code": {"ImageUri": "image"}}), "Code.ImageUri"),
        (json!({"Runtime": "cobol85"}), "cobol85"),
        (json!({"Runtime": "nodejs20.x"}), "not installed"),
        (json!({"Runtime": "../../etc"}), "../../etc"),
        (json!({"Layers": ["arn:aws:lambda:us-east-1:123456789012:layer:l:1"]}), "Layers"),
        (json!({"MemorySize": 64}), "'memorySize'"),
        (json!({"SnapStart": {"ApplyOn": "AllVersions"}}), "enum value set: [PublishedVersions, None]"),
        (code(b""), "non-empty zip"),
        (code(b"this is no zip file"), "Could not unzip uploaded file"),
        (code(&good[..good.len() / 2]), "Could not unzip uploaded file"),
        (code(&zip(&[("../evil", "x", 0o644)])), "Could not unzip uploaded file"),
        (code(&zip(&[("/evil", "x", 0o644)])), "Could not unzip uploaded file"),
        (code(&zip(&[("zeros", &"\0".repeat(251 * 1024 * 1024), 0o644)])), "Unzipped size must be smaller than"),
    ] {
        let answer = server.call("POST", FUNCTIONS, with(changes)).await;
        answer.expect_error(400, invalid, part);
    }
    server.call("GET", &path("bad"), Value::Null).await.expect_error(404, "ResourceNotFoundException", "bad");
    assert!(!server.folder.path().join("evil").exists());
    let serialization = "SerializationException";
    for body in ["", "{", "[]", r#"{"MemorySize":"128"}"#, r#"{"Code":{"ZipFile":"%%"}}"#, r#"{"Timeout":1.5}"#] {
        let answer = server.call_with("POST", FUNCTIONS, &[], body.into()).await;
        answer.expect_error(400, serialization, "");
    }
    server.create("taken").await;
    let again = server.call("POST", FUNCTIONS, create_request("taken")).await;
    again.expect_error(409, "ResourceConflictException", "already exist: taken");
}

#[tokio::test]
async fn a_registered_runtime_can_be_used() {
    let server = Server::start().await;
    let mut request = create_request("py");
    request["Runtime"] = json!("python3.11");
    request["Code"] = json!({"ZipFile": base64(&zip(&[("bootstrap", "", 0o755)]))});
    assert_eq!(server.call("POST", FUNCTIONS, request).await.status, 201);
    assert_eq!(server.invoke("py", json!(1)).await.json(), json!({"echo": 1}));
    let invocations = server.stage.invocations.lock().unwrap();
    let root = &invocations[0].spec.mounts[0];
    assert_eq!(std::fs::read_to_string(root.1.join("file")).unwrap(), "content");
}

#[tokio::test]
async fn snap_start_decides_whether_there_are_templates() {
    let server = Server::start().await;
    server.create("hello").await;
    let mut expected = vec![true];
    server.invoke("hello", json!(1)).await;
    for (apply_on, shown) in [
        (json!("PublishedVersions"), json!({"ApplyOn": "PublishedVersions", "OptimizationStatus": "On"})),
        (json!("None"), json!({"ApplyOn": "None", "OptimizationStatus": "Off"})),
        (json!(null), json!({"ApplyOn": "None", "OptimizationStatus": "Off"})),
    ] {
        let change = json!({"SnapStart": {"ApplyOn": apply_on}});
        let answer = server.call("PUT", &path("hello/configuration"), change).await.json();
        assert_eq!(answer["SnapStart"], shown);
        let listed = server.call("GET", FUNCTIONS, Value::Null).await.json();
        assert_eq!(listed["Functions"][0]["SnapStart"], shown);
        server.invoke("hello", json!(1)).await;
        expected.push(apply_on == "PublishedVersions");
    }
    let mut request = create_request("off");
    request["SnapStart"] = json!({"ApplyOn": "None"});
    assert_eq!(server.call("POST", FUNCTIONS, request).await.status, 201);
    server.invoke("off", json!(1)).await;
    expected.push(false);
    let invocations = server.stage.invocations.lock().unwrap();
    let have: Vec<_> = invocations.iter().map(|invocation| invocation.spec.has_template).collect();
    assert_eq!(have, expected);
}

#[tokio::test]
async fn updates_take_effect_and_keep_the_rest() {
    let server = Server::start().await;
    let created = server.create("hello").await;
    server.invoke("hello", json!(1)).await;
    let change = json!({
        "MemorySize": 256, "Timeout": 60, "Description": "d", "Environment": {"Variables": {"KEY": "value"}},
        "RevisionId": created["RevisionId"],
    });
    let answer = server.call("PUT", &path("hello/configuration"), change.clone()).await;
    let updated = answer.json();
    assert_eq!((updated["MemorySize"].clone(), updated["Handler"].clone()), (json!(256), json!("h")));
    assert_eq!(updated["Environment"], json!({"Variables": {"KEY": "value"}}));
    assert_ne!(updated["RevisionId"], created["RevisionId"]);
    let stale = server.call("PUT", &path("hello/configuration"), change).await;
    stale.expect_error(412, "PreconditionFailedException", "Revision Id");

    let package = zip(&[("bootstrap", "second", 0o755)]);
    let code = json!({"ZipFile": base64(&package)});
    let answer = server.call("PUT", &path("hello/code"), code.clone()).await.json();
    assert_ne!(answer["CodeSha256"], created["CodeSha256"]);
    assert_eq!((answer["CodeSize"].clone(), answer["MemorySize"].clone()), (json!(package.len()), json!(256)));
    let keep = answer["RevisionId"].as_str().map(str::to_owned);
    assert_eq!(server.stage.retired.lock().unwrap().pop(), Some(("hello".into(), keep)));

    server.invoke("hello", json!(2)).await;
    let invocations = server.stage.invocations.lock().unwrap().clone();
    let (before, after) = (&invocations[0].spec, &invocations[1].spec);
    assert_eq!((before.memory_mib, after.memory_mib), (128, 256));
    assert!(after.environment.contains(&("KEY".into(), "value".into())));
    assert_eq!(std::fs::read_to_string(after.mounts[1].1.join("bootstrap")).unwrap(), "second");
    assert_ne!(before.revision_id, after.revision_id);

    for (part, body, text) in [
        ("code", json!({}), "source for function code"),
        ("code", json!({"ZipFile": base64(b"no zip")}), "Could not unzip"),
        ("code", json!({"ZipFile": base64(&package), "Publish": true}), "Publish"),
        ("code", json!({"ZipFile": base64(&package), "Architectures": ["arm64"]}), "arm64"),
        ("code", json!({"S3Bucket": "b", "S3Key": "k"}), "S3Bucket"),
        ("configuration", json!({"Runtime": "cobol85"}), "cobol85"),
        ("configuration", json!({"Timeout": 901}), "'timeout'"),
        ("configuration", json!({"VpcConfig": {"SubnetIds": ["s"]}}), "VpcConfig"),
    ] {
        let answer = server.call("PUT", &path(&format!("hello/{part}")), body).await;
        answer.expect_error(400, "InvalidParameterValueException", text);
    }
    for part in ["code", "configuration"] {
        let answer = server.call("PUT", &path(&format!("nobody/{part}")), code.clone()).await;
        assert!([400, 404].contains(&answer.status.as_u16()));
    }
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let server = Server::start().await;
    let created = server.create("hello").await;
    let package = zip(&[("bootstrap", "other", 0o755)]);
    let request = json!({"ZipFile": base64(&package), "DryRun": true});
    let answer = server.call("PUT", &path("hello/code"), request).await.json();
    assert_eq!(answer["CodeSize"], json!(package.len()));
    let request = json!({"ZipFile": base64(b"no zip"), "DryRun": true});
    let answer = server.call("PUT", &path("hello/code"), request).await;
    answer.expect_error(400, "InvalidParameterValueException", "Could not unzip");
    assert_eq!(server.call("GET", &path("hello/configuration"), Value::Null).await.json(), created);
}

#[tokio::test]
async fn tags_are_kept() {
    let server = Server::start().await;
    let mut request = create_request("hello");
    request["Tags"] = json!({"team": "blue"});
    assert_eq!(server.call("POST", FUNCTIONS, request).await.status, 201);
    assert_eq!(server.call("GET", &path("hello"), Value::Null).await.json()["Tags"], json!({"team": "blue"}));
}

#[tokio::test]
async fn lists_have_pages() {
    let server = Server::start().await;
    let names: Vec<String> = (0..53).map(|number| format!("f{number:02}")).collect();
    for name in &names {
        server.create(name).await;
    }
    for (first, page_size) in [("?MaxItems=10", 10), ("?MaxItems=10000", 50), ("", 50)] {
        let mut seen = Vec::new();
        let mut query = first.to_owned();
        loop {
            let page = server.call("GET", &format!("{FUNCTIONS}/{query}"), Value::Null).await.json();
            let functions = page["Functions"].as_array().unwrap();
            assert!(functions.len() <= page_size);
            seen.extend(functions.iter().map(|function| function["FunctionName"].as_str().unwrap().to_owned()));
            let Some(marker) = page["NextMarker"].as_str() else { break };
            assert_eq!(functions.len(), page_size);
            query = format!("?MaxItems={page_size}&Marker={marker}");
        }
        assert_eq!(seen, names);
    }
    let listed = server.call("GET", &format!("{FUNCTIONS}?FunctionVersion=ALL"), Value::Null).await.json();
    assert!(listed["Functions"][0]["FunctionArn"].as_str().unwrap().ends_with(":function:f00:$LATEST"));
    assert_eq!(listed["Functions"][0]["State"], Value::Null);
    for query in ["?MaxItems=0", "?MaxItems=10001", "?MaxItems=x", "?Marker=%25", "?FunctionVersion=1"] {
        let answer = server.call("GET", &format!("{FUNCTIONS}{query}"), Value::Null).await;
        answer.expect_error(400, "InvalidParameterValueException", "");
    }
}

#[tokio::test]
async fn the_code_can_be_downloaded_by_its_owner() {
    let server = Server::start().await;
    server.create("hello").await;
    let shown = server.call("GET", &path("hello"), Value::Null).await.json();
    let location = shown["Code"]["Location"].as_str().unwrap().to_owned();
    let path_and_query = location.strip_prefix("http://localhost:7070").unwrap();
    let answer = server.send(server.request("GET", path_and_query, &[], vec![])).await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, Some("application/zip")));
    assert_eq!(answer.body, zip(&[("bootstrap", "#!/bin/true", 0o755)]));
    let altered = path_and_query.replace("/hello/", "/other/");
    let answer = server.send(server.request("GET", &altered, &[], vec![])).await;
    answer.expect_error(403, "InvalidSignatureException", "does not match");
    let plain = path_and_query.split('?').next().unwrap();
    let answer = server.send(server.request("GET", plain, &[], vec![])).await;
    answer.expect_error(403, "MissingAuthenticationTokenException", "");
    let other_blob = format!("/_calypte/code/hello/{}", "0".repeat(64));
    server.call("GET", &other_blob, Value::Null).await.expect_error(404, "ResourceNotFoundException", "");
    server.call("GET", "/_calypte/code/hello/x", Value::Null).await.expect_error(
        400,
        "InvalidParameterValueException",
        "",
    );
}

#[tokio::test]
async fn functions_are_there_after_a_restart_even_without_their_directories() {
    let mut server = Server::start().await;
    let created = server.create("hello").await;
    let data = server.folder.path().join("data");
    let (router, control) = (server.router, server.control);
    drop((router, control));
    std::fs::remove_dir_all(data.join("code")).unwrap();
    let store = calypte_store::Store::open(&data).await.unwrap();
    let images = calypte_worker::image::Images::open(data.join("runtimes")).unwrap();
    let code = calypte_worker::code::CodeCache::open(data.join("code")).unwrap();
    let executor = std::sync::Arc::clone(&server.stage) as std::sync::Arc<dyn calypte_control::Executor>;
    server.control =
        std::sync::Arc::new(calypte_control::Control::new(store, executor, images, code, "us-east-1").unwrap());
    server.router = calypte_api::router(std::sync::Arc::clone(&server.control));
    let configuration = server.call("GET", &path("hello/configuration"), Value::Null).await.json();
    assert_eq!(configuration, created);
    assert_eq!(server.invoke("hello", json!("again")).await.json(), json!({"echo": "again"}));
    let code = server.stage.invocations.lock().unwrap()[0].spec.mounts[1].1.clone();
    assert_eq!(std::fs::read_to_string(code.join("bootstrap")).unwrap(), "#!/bin/true");
}

#[tokio::test]
async fn code_that_nobody_uses_is_removed() {
    let server = Server::start().await;
    server.create("hello").await;
    let mut other = create_request("other");
    let package = zip(&[("bootstrap", "other", 0o755)]);
    other["Code"] = json!({"ZipFile": base64(&package)});
    server.call("POST", FUNCTIONS, other).await;
    let data = server.folder.path().join("data");
    let count = || {
        let mut folders = vec![data.join("blobs")];
        let mut files = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() { folders.push(entry.path()) } else { files += 1 }
            }
        }
        files
    };
    server.invoke("hello", json!(1)).await;
    let read_by_invocation = server.stage.invocations.lock().unwrap()[0].spec.mounts[1].1.clone();
    let update = json!({"ZipFile": base64(&zip(&[("bootstrap", "new", 0o755)]))});
    server.call("PUT", &path("hello/code"), update).await;
    assert_eq!(count(), 3);
    server.call("DELETE", &path("other"), Value::Null).await;
    server.control.collect_garbage().await.unwrap();
    assert_eq!(count(), 1);
    assert!(!data.join("code").join(calypte_worker::code::CodeCache::id_of(&package).as_str()).exists());
    // That invocation may still be running, as far as anybody knows here.
    assert!(read_by_invocation.join("bootstrap").exists());
    assert_eq!(server.invoke("hello", json!(1)).await.status, 200);
}
