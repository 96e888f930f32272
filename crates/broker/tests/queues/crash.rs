//! Power cuts under the local engine: nothing confirmed is lost, nothing acknowledged for good is invented.

#[tokio::test]
async fn placeholder() {}
