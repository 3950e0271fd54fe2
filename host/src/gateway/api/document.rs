//! The OpenAPI 3.1 document of a list of operations. It knows no route in particular.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use utoipa::openapi::path::{OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, HttpMethod, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder,
    PathItem, PathsBuilder, Ref, RefOr, Required, Response, ResponseBuilder, Schema,
};
use utoipa::{PartialSchema, ToSchema};

use super::{Answer, Group, Operation, Param, Place, words};
use crate::gateway::problem::{Kind, MEDIA_TYPE};

/// The name of the only security scheme.
const API_KEY: &str = "api_key";

const ABOUT: &str = "\
The admin listener of a Presence host. Any host of a deployment answers for all of it. Times are RFC 3339 in UTC with \
milliseconds. Readers ignore fields that they don't know: later versions may add some. Whoever is told of \
a problem gets a problem document (RFC 9457), whose `type` never changes its meaning.";

/// A problem document.
#[derive(ToSchema)]
#[schema(as = Problem)]
#[expect(dead_code, reason = "its fields are for the schema; problem.rs writes it")]
struct ProblemSchema {
    /// What kind of problem it is.
    #[schema(value_type = ProblemType)]
    r#type: String,
    /// The status in words.
    title: String,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong this time, for people.
    detail: String,
    /// Every single thing that is wrong, where there may be several.
    errors: Option<Vec<String>>,
}

/// Every `type`.
struct ProblemType;

impl PartialSchema for ProblemType {
    fn schema() -> RefOr<Schema> {
        RefOr::T(words::one_of(Kind::ALL.map(Kind::uri)))
    }
}

impl ToSchema for ProblemType {}

/// What every operation may answer. A 500 is none of them: it is a fault.
const EVERYWHERE: [(Kind, &str); 4] = [
    (Kind::BadParameter, "A parameter is not known, given twice, not percent-encoded UTF-8 or out of range."),
    (Kind::Unauthorized, "There are API keys, and none of them was sent."),
    (Kind::Forbidden, "The key lacks the scope, or a web page of another origin asks."),
    (Kind::Unavailable, "The host is starting, stopping or overloaded, or the store is away."),
];

/// The whole document.
pub fn of(operations: Vec<(Group, Operation)>) -> OpenApi {
    let mut schemas: BTreeMap<String, RefOr<Schema>> = BTreeMap::new();
    let mut collected = vec![("Problem".to_owned(), ProblemSchema::schema())];
    ProblemSchema::schemas(&mut collected);
    let mut paths: BTreeMap<&'static str, PathItem> = BTreeMap::new();
    for (group, operation) in operations {
        collected.extend(operation.schemas.iter().cloned());
        let item = PathItem::new(method(&operation.method), described(group, &operation));
        match paths.get_mut(operation.path) {
            Some(there) => there.merge_operations(item),
            None => drop(paths.insert(operation.path, item)),
        }
    }
    schemas.extend(collected);
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(
        "An API key, made by `presence keys new`. While presence.toml lists none, none is needed.",
    ));
    let components = ComponentsBuilder::new()
        .schemas_from_iter(schemas)
        .security_scheme(API_KEY, SecurityScheme::Http(bearer.build()));
    let license = LicenseBuilder::new().name("MIT OR Apache-2.0").identifier(Some("MIT OR Apache-2.0"));
    let info = InfoBuilder::new()
        .title("Presence")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(ABOUT))
        .license(Some(license.build()));
    let paths = paths.into_iter().fold(PathsBuilder::new(), |paths, (path, item)| paths.path(path, item));
    OpenApiBuilder::new().info(info).paths(paths).components(Some(components.build())).build()
}

fn method(method: &Method) -> HttpMethod {
    match method.as_str() {
        "PUT" => HttpMethod::Put,
        "POST" => HttpMethod::Post,
        "DELETE" => HttpMethod::Delete,
        "PATCH" => HttpMethod::Patch,
        _ => HttpMethod::Get,
    }
}

fn described(group: Group, operation: &Operation) -> utoipa::openapi::path::Operation {
    let mut described = OperationBuilder::new()
        .operation_id(Some(operation.id))
        .summary(Some(operation.summary))
        .tag(tag(operation.path));
    if !operation.about.is_empty() {
        described = described.description(Some(operation.about));
    }
    for param in &operation.parameters {
        described = described.parameter(parameter(param));
    }
    if let Some(body) = &operation.body {
        let content = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name(&body.schema)))
            .example(Some(body.example.clone()));
        let body = RequestBodyBuilder::new()
            .content("application/json", content.build())
            .required(Some(Required::True));
        described = described.request_body(Some(body.build()));
    }
    for answer in &operation.answers {
        described = described.response(answer.status.as_str(), answered(answer));
    }
    for (status, kinds) in problems(group, operation) {
        described = described.response(status.as_str(), problem(status, &kinds));
    }
    // Answered before anybody knows what is asked.
    described = described.response("431", Response::new("The head is larger than 16 KiB. There is no body."));
    match group.scope() {
        None => described.securities(Some([])).build(),
        Some(scope) => described
            .security(SecurityRequirement::new(API_KEY, [scope.as_str()]))
            .security(SecurityRequirement::default())
            .build(),
    }
}

/// The first word behind the version.
fn tag(path: &str) -> String {
    let mut words = path.split('/').filter(|word| !word.is_empty() && *word != "v1");
    words.next().unwrap_or("presence").trim_end_matches(".json").to_owned()
}

fn parameter(param: &Param) -> ParameterBuilder {
    let place = match param.place {
        Place::Path => ParameterIn::Path,
        Place::Query => ParameterIn::Query,
        Place::Header => ParameterIn::Header,
    };
    let schema =
        if param.most > 1 { words::several(param.schema.clone(), param.most) } else { param.schema.clone() };
    ParameterBuilder::new()
        .name(param.name)
        .parameter_in(place)
        .description(Some(param.about))
        .required(if param.required { Required::True } else { Required::False })
        .explode((param.most > 1).then_some(true))
        .schema(Some(schema))
        .example(param.example.clone())
}

fn answered(answer: &Answer) -> Response {
    let Some(media_type) = answer.media_type else { return Response::new(answer.about) };
    let schema: RefOr<Schema> = match &answer.schema {
        Some(name) => RefOr::Ref(Ref::from_schema_name(name)),
        None => RefOr::T(words::text()),
    };
    let content = ContentBuilder::new().schema(Some(schema)).example(Some(answer.example.clone()));
    ResponseBuilder::new().description(answer.about).content(media_type, content.build()).build()
}

/// The problems of an operation, by status.
fn problems(group: Group, operation: &Operation) -> BTreeMap<StatusCode, Vec<(Kind, &'static str)>> {
    let mut by_status: BTreeMap<StatusCode, Vec<(Kind, &'static str)>> = BTreeMap::new();
    let everywhere =
        EVERYWHERE.into_iter().filter(|(kind, _)| group != Group::Open || *kind != Kind::Unauthorized);
    for (kind, about) in operation.problems.iter().copied().chain(everywhere) {
        let kinds = by_status.entry(kind.status()).or_default();
        // What the operation says of a kind counts for more than what all say.
        if kinds.iter().all(|(there, _)| *there != kind) {
            kinds.push((kind, about));
        }
    }
    by_status
}

fn problem(status: StatusCode, kinds: &[(Kind, &'static str)]) -> Response {
    let about: Vec<String> =
        kinds.iter().map(|(kind, about)| format!("`{}`: {about}", kind.as_str())).collect();
    let (kind, detail) = kinds[0];
    let example: Value = json!({
        "type": kind.uri(),
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "detail": detail,
    });
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).example(Some(example));
    ResponseBuilder::new().description(about.join(" ")).content(MEDIA_TYPE, content.build()).build()
}
