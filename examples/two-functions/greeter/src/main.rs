//! Greets whoever the path's last segment names.

use wstd::http::{Body, Error, Request, Response};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let greeting = std::env::var("GREETING").unwrap_or_else(|_| "Hello".to_owned());
    let name = request.uri().path().rsplit('/').next().unwrap_or_default();
    let name = if matches!(name, "" | "greeter") { "stranger" } else { name };
    // Standard output goes to the function's logs.
    println!("greeting {name}");
    Ok(Response::new(format!("{greeting}, {name}!\n").into()))
}
