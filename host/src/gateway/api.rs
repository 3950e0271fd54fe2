//! The routes of the HTTP API as lists: each with what it takes and what it answers. From one list come the router, the
//! judgement of query parameters and the OpenAPI document, so that none of them says what the others don't. It knows no
//! handler from within.

use axum::Router;
use axum::extract::Request;
use axum::handler::Handler;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use http::{Method, StatusCode};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

use super::problem::{Kind, Problem};
use super::query;
use crate::api_keys::Scope;

pub mod document;
pub mod words;

/// Whom a route is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Everybody who reaches the listener.
    Open,
    /// Whoever may ask; it changes nothing.
    Read,
    /// Backends that report sessions.
    Sessions,
    /// Whoever may change plugins and dead letters.
    Admin,
}

impl Group {
    /// The scope that a key needs.
    pub fn scope(self) -> Option<Scope> {
        match self {
            Group::Open => None,
            Group::Read => Some(Scope::Read),
            Group::Sessions => Some(Scope::Sessions),
            Group::Admin => Some(Scope::Admin),
        }
    }
}

/// Where a parameter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Part of the path.
    Path,
    /// In the query.
    Query,
    /// A header.
    Header,
}

/// A parameter of an operation.
#[derive(Clone)]
pub struct Param {
    name: &'static str,
    place: Place,
    /// So often it may be given; more than once only in the query.
    most: usize,
    required: bool,
    about: &'static str,
    schema: Schema,
    example: Option<Value>,
}

impl Param {
    /// A part of the path.
    pub fn path(name: &'static str, about: &'static str, schema: Schema) -> Param {
        Param { name, place: Place::Path, most: 1, required: true, about, schema, example: None }
    }

    /// A parameter of the query that may be given once, or left out.
    pub fn query(name: &'static str, about: &'static str, schema: Schema) -> Param {
        Param { place: Place::Query, required: false, ..Param::path(name, about, schema) }
    }

    /// A header that may be left out.
    pub fn header(name: &'static str, about: &'static str, schema: Schema) -> Param {
        Param { place: Place::Header, required: false, ..Param::path(name, about, schema) }
    }

    /// One of the query that must be given.
    pub fn required(self) -> Param {
        Param { required: true, ..self }
    }

    /// It may be given so many times.
    pub fn repeated(self, most: usize) -> Param {
        Param { most, ..self }
    }

    /// An example for the document.
    pub fn example(self, example: impl Into<Value>) -> Param {
        Param { example: Some(example.into()), ..self }
    }
}

/// Something that an operation answers.
#[derive(Clone, Debug)]
struct Answer {
    status: StatusCode,
    about: &'static str,
    /// None: no body.
    media_type: Option<&'static str>,
    /// The schema's name.
    schema: Option<String>,
    example: Value,
}

/// A body that an operation takes.
#[derive(Clone, Debug)]
struct Taken {
    schema: String,
    example: Value,
}

/// One method of one path.
#[derive(Clone)]
pub struct Operation {
    pub(super) method: Method,
    pub(super) path: &'static str,
    /// Unique; clients that are generated call their functions so.
    id: &'static str,
    summary: &'static str,
    about: &'static str,
    parameters: Vec<Param>,
    body: Option<Taken>,
    answers: Vec<Answer>,
    problems: Vec<(Kind, &'static str)>,
    schemas: Vec<(String, RefOr<Schema>)>,
}

impl Operation {
    /// `summary` is a line, `id` a name in snake_case.
    pub fn new(method: Method, path: &'static str, id: &'static str, summary: &'static str) -> Operation {
        Operation {
            method,
            path,
            id,
            summary,
            about: "",
            parameters: Vec::new(),
            body: None,
            answers: Vec::new(),
            problems: Vec::new(),
            schemas: Vec::new(),
        }
    }

    /// With its parameters in braces.
    pub fn path(&self) -> &'static str {
        self.path
    }

    /// One that reads.
    pub fn get(path: &'static str, id: &'static str, summary: &'static str) -> Operation {
        Operation::new(Method::GET, path, id, summary)
    }

    /// More than a line.
    pub fn about(self, about: &'static str) -> Operation {
        Operation { about, ..self }
    }

    /// It takes this parameter. One of the query that no operation takes is refused.
    pub fn takes(mut self, param: Param) -> Operation {
        self.parameters.push(param);
        self
    }

    /// It takes a JSON body.
    pub fn takes_body<T: ToSchema + Serialize>(mut self, example: &T) -> Operation {
        self.body = Some(Taken { schema: self.with_schema::<T>(), example: value_of(example) });
        self.may_fail(Kind::NotJson, "The body is not JSON.")
            .may_fail(Kind::TooLarge, "The body is too large.")
            .may_fail(Kind::UnsupportedMediaType, "The body is not `application/json`.")
            .may_fail(Kind::BadBody, "The body does not fit, or has a field that is not known.")
    }

    /// It answers with a JSON document.
    pub fn answers<T: ToSchema + Serialize>(
        mut self,
        status: StatusCode,
        about: &'static str,
        example: &T,
    ) -> Operation {
        let schema = Some(self.with_schema::<T>());
        let example = value_of(example);
        let media_type = Some("application/json");
        self.answers.push(Answer { status, about, media_type, schema, example });
        self
    }

    /// It answers with text.
    pub fn answers_text(mut self, media_type: &'static str, about: &'static str, example: &str) -> Operation {
        let example = Value::from(example);
        let (status, media_type) = (StatusCode::OK, Some(media_type));
        self.answers.push(Answer { status, about, media_type, schema: None, example });
        self
    }

    /// It answers without a body.
    pub fn answers_nothing(mut self, status: StatusCode, about: &'static str) -> Operation {
        self.answers.push(Answer { status, about, media_type: None, schema: None, example: Value::Null });
        self
    }

    /// A document that is told of without being an answer of its own.
    pub fn mentions<T: ToSchema>(mut self) -> Operation {
        self.with_schema::<T>();
        self
    }

    /// It may answer with such a problem. What every operation may answer need not be said.
    pub fn may_fail(mut self, kind: Kind, about: &'static str) -> Operation {
        self.problems.push((kind, about));
        self
    }

    fn with_schema<T: ToSchema>(&mut self) -> String {
        let name = T::name().into_owned();
        T::schemas(&mut self.schemas);
        self.schemas.push((name.clone(), T::schema()));
        name
    }

    /// Whether these are parameters that it takes.
    fn judge(&self, query: Option<&str>) -> Result<(), Problem> {
        let mut given = vec![0; self.parameters.len()];
        let bad = |detail| Err(Problem::of(Kind::BadParameter, detail));
        for (name, value) in query::pairs(query) {
            let known = |param: &Param| param.place == Place::Query && param.name == name;
            let Some(at) = self.parameters.iter().position(known) else {
                let name: String = name.chars().take(40).collect();
                return bad(format!("the query parameter `{name}` is not known here"));
            };
            value?;
            given[at] += 1;
            match self.parameters[at].most {
                most if given[at] <= most => {}
                1 => return bad(format!("the query parameter `{name}` is given more than once")),
                most => return bad(format!("the query parameter `{name}` is given more than {most} times")),
            }
        }
        Ok(())
    }
}

fn value_of(example: &impl Serialize) -> Value {
    serde_json::to_value(example).expect("documents with text keys always become JSON")
}

/// Routes of one group.
pub struct Routes<S> {
    group: Group,
    router: Router<S>,
    operations: Vec<Operation>,
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    /// None.
    pub fn new(group: Group) -> Routes<S> {
        Routes { group, router: Router::new(), operations: Vec::new() }
    }

    /// For whom.
    pub fn group(&self) -> Group {
        self.group
    }

    /// One more. The handler is only asked with parameters of the query that the operation takes.
    pub fn add<H, T>(mut self, operation: Operation, handler: H) -> Routes<S>
    where
        H: Handler<T, S>,
        T: 'static,
    {
        let method = MethodFilter::try_from(operation.method.clone()).expect("a method that routers know");
        let judged = operation.clone();
        let judge = from_fn(move |request: Request, next: Next| {
            let verdict = judged.judge(request.uri().query());
            async move {
                match verdict {
                    Ok(()) => next.run(request).await,
                    Err(problem) => Response::from(problem).into_response(),
                }
            }
        });
        self.router = self.router.route(operation.path, on(method, handler).route_layer(judge));
        self.operations.push(operation);
        self
    }

    /// All of another list, which is of the same group.
    pub fn and(mut self, more: Routes<S>) -> Routes<S> {
        assert_eq!(self.group, more.group, "one list is of one group");
        self.router = self.router.merge(more.router);
        self.operations.extend(more.operations);
        self
    }

    /// For the router, and for the document.
    pub fn into_parts(self) -> (Router<S>, Vec<(Group, Operation)>) {
        let operations = self.operations.into_iter().map(|operation| (self.group, operation));
        (self.router, operations.collect())
    }
}

#[cfg(test)]
mod tests;
