//! Asks the other function for a greeting and adds a line of its own.

use wstd::http::{Body, Client, Error, Request, Response, StatusCode};

/// Stays inside the mesh: the name of the function, and `.internal`.
const GREETER: &str = "http://greeter.internal";

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    // `/front/Ada` on the ingress is `/Ada` to the greeter.
    let path = request.uri().path();
    let path = path.strip_prefix("/front").unwrap_or(path);
    let inner = Request::get(format!("{GREETER}/{}", path.trim_start_matches('/')));
    match Client::new().send(inner.body(Body::empty())?).await {
        Ok(mut answer) if answer.status().is_success() => {
            let greeting = answer.body_mut().str_contents().await?;
            let text = format!("{greeting}This line was added by front.\n");
            Ok(Response::new(text.into()))
        }
        Ok(answer) => bad_gateway(format!("the greeter answered {}\n", answer.status())),
        Err(error) => bad_gateway(format!("the greeter cannot be reached: {error}\n")),
    }
}

fn bad_gateway(text: String) -> Result<Response<Body>, Error> {
    Ok(Response::builder().status(StatusCode::BAD_GATEWAY).body(text.into())?)
}
