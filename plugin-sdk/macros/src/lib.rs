//! The attribute `#[presence_plugin::plugin]`: exports the hook functions that an impl block has, and no others.
//!
//! Only writes code: what that code calls is in `presence_plugin::__private`, and what a hook means is not known here.

use proc_macro::TokenStream;
use proc_macro2::{Ident, TokenStream as Tokens};
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, ImplItem, ImplItemFn, ItemImpl, Type, parse_macro_input};

/// The hook functions and the type of the event each is told.
const HOOKS: [(&str, &str); 7] = [
    ("session_connected", "Session"),
    ("session_disconnected", "SessionDisconnected"),
    ("cleanup", "Cleanup"),
    ("user_online", "StatusChange"),
    ("user_idle", "StatusChange"),
    ("user_offline", "StatusChange"),
    ("tick", "Tick"),
];

/// Makes a type a plugin: put it on the impl block with the type's hook functions.
///
/// See the crate `presence_plugin` for the hooks and their signatures. Any other function in the block is an error.
#[proc_macro_attribute]
pub fn plugin(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let block = parse_macro_input!(item as ItemImpl);
    let arguments = Tokens::from(arguments);
    let written = if arguments.is_empty() {
        expand(&block)
    } else {
        Err(Error::new(arguments.span(), "`#[plugin]` takes no arguments"))
    };
    let written = written.unwrap_or_else(|error| error.to_compile_error());
    quote! { #block #written }.into()
}

fn expand(block: &ItemImpl) -> Result<Tokens, Error> {
    check_block(block)?;
    let plugin = &*block.self_ty;
    let functions = || {
        block.items.iter().filter_map(|item| match item {
            ImplItem::Fn(function) => Some(function),
            _ => None,
        })
    };
    let configure = functions().find(|function| function.sig.ident == "configure");
    let mut hooks = Vec::new();
    let mut errors: Option<Error> = None;
    for function in functions().filter(|function| function.sig.ident != "configure") {
        match hook(function) {
            Ok(event) => hooks.push((&function.sig.ident, event)),
            Err(error) => match &mut errors {
                Some(all) => all.combine(error),
                None => errors = Some(error),
            },
        }
    }
    if let Some(errors) = errors {
        return Err(errors);
    }
    if hooks.is_empty() {
        let message = format!("a plugin needs at least one hook: {}", hook_names());
        return Err(Error::new(plugin.span(), message));
    }
    let checks = hooks.iter().map(|(name, event)| signature_check(plugin, name, event));
    let maker_check = maker_check(plugin, configure);
    let exports = exports(plugin, configure, &hooks);
    Ok(quote! {
        // On every target, so that native builds see the same mistakes, and see that the hooks are used.
        const _: () = {
            #(#checks)*
            #maker_check
        };
        #exports
    })
}

fn check_block(block: &ItemImpl) -> Result<(), Error> {
    if let Some((_, path, _)) = &block.trait_ {
        return Err(Error::new(
            path.span(),
            "`#[plugin]` belongs on `impl Type { … }`, not on the impl of a trait",
        ));
    }
    if !block.generics.params.is_empty() {
        return Err(Error::new(block.generics.span(), "a plugin cannot be generic"));
    }
    Ok(())
}

/// The type of the event that this hook function is told, or why it is none.
fn hook(function: &ImplItemFn) -> Result<Ident, Error> {
    let name = &function.sig.ident;
    let Some((_, event)) = HOOKS.iter().find(|(hook, _)| name == hook) else {
        let message = format!(
            "`{name}` is not a hook. The hooks are {}; besides them there is `configure`. Helper functions go into \
             another impl block, without the attribute",
            hook_names()
        );
        return Err(Error::new(name.span(), message));
    };
    if let Some(keyword) = &function.sig.asyncness {
        return Err(Error::new(keyword.span(), "hooks are plain functions, not async ones"));
    }
    if function.sig.receiver().is_none() || function.sig.inputs.len() != 3 {
        let message = format!("expected `fn {name}(&self, ctx: &Context, event: &{event}) -> HookResult`");
        return Err(Error::new(function.sig.span(), message));
    }
    Ok(format_ident!("{event}", span = name.span()))
}

fn hook_names() -> String {
    HOOKS.map(|(name, _)| format!("`{name}`")).join(", ")
}

fn signature_check(plugin: &Type, name: &Ident, event: &Ident) -> Tokens {
    quote_spanned! {name.span()=>
        let _: fn(&mut #plugin, &::presence_plugin::Context, &::presence_plugin::#event)
            -> ::presence_plugin::HookResult = |plugin, ctx, event| <#plugin>::#name(plugin, ctx, event);
    }
}

/// Checks `configure`, or that there is a `Default` instead.
fn maker_check(plugin: &Type, configure: Option<&ImplItemFn>) -> Tokens {
    match configure {
        Some(function) => quote_spanned! {function.sig.ident.span()=>
            fn configure_takes_a_config_and_returns_a_result<C, E: ::core::fmt::Display>(
                _: impl FnOnce(C) -> ::core::result::Result<#plugin, E>,
            ) {}
            let _ = || configure_takes_a_config_and_returns_a_result(<#plugin>::configure);
        },
        None => quote_spanned! {plugin.span()=>
            let _: fn() -> #plugin = <#plugin as ::core::default::Default>::default;
        },
    }
}

fn exports(plugin: &Type, configure: Option<&ImplItemFn>, hooks: &[(&Ident, Ident)]) -> Tokens {
    let default = match configure {
        Some(_) => quote! { ::core::option::Option::None },
        None => {
            quote! { ::core::option::Option::Some(<#plugin as ::core::default::Default>::default) }
        }
    };
    let handlers = hooks.iter().map(|(name, _)| {
        quote! {
            impl ::presence_plugin::__private::#name::Guest for Exports {
                fn handle(
                    ctx: ::presence_plugin::__private::Context,
                    event: ::presence_plugin::__private::#name::Event,
                ) -> ::core::result::Result<(), ::presence_plugin::__private::HookError> {
                    ::presence_plugin::__private::handle(&PLUGIN, #default, ctx, event, |plugin, ctx, event| {
                        <#plugin>::#name(plugin, ctx, event)
                    })
                }
            }
            ::presence_plugin::__private::#name::export!(
                Exports with_types_in ::presence_plugin::__private::#name
            );
        }
    });
    let maker = configure.map(|_| {
        quote! {
            impl ::presence_plugin::__private::configure::Guest for Exports {
                fn configure(
                    json: ::std::string::String,
                ) -> ::core::result::Result<(), ::std::string::String> {
                    ::presence_plugin::__private::make(&PLUGIN, &json, <#plugin>::configure)
                }
            }
            ::presence_plugin::__private::configure::export!(
                Exports with_types_in ::presence_plugin::__private::configure
            );
        }
    });
    quote! {
        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code, missing_docs, clippy::all)]
        const _: () = {
            struct Exports;
            ::std::thread_local! {
                static PLUGIN: ::presence_plugin::__private::State<#plugin> =
                    const { ::presence_plugin::__private::State::new() };
            }
            #(#handlers)*
            #maker
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syn::parse_quote;

    fn refusal(block: ItemImpl) -> String {
        let error = expand(&block).expect_err("an error");
        error.into_iter().map(|error| error.to_string()).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn exports_the_hooks_that_are_there() {
        let block = parse_quote! {
            impl Mine {
                fn user_online(&self, ctx: &Context, event: &StatusChange) -> HookResult { Ok(()) }
            }
        };
        let written = expand(&block).unwrap().to_string();
        assert!(written.contains("user_online :: Guest"));
        assert!(!written.contains("user_idle") && !written.contains("configure"), "{written}");
        assert!(written.contains("Default"));
    }

    #[test]
    fn a_misspelt_hook_names_the_hooks() {
        let error = refusal(parse_quote! {
            impl Mine {
                fn user_onlin(&self, ctx: &Context, event: &StatusChange) -> HookResult { Ok(()) }
                fn helper() {}
            }
        });
        assert!(
            error.starts_with("`user_onlin` is not a hook. The hooks are `session_connected`, "),
            "{error}"
        );
        assert!(error.contains("; `helper` is not a hook."), "{error}");
    }

    #[test]
    fn shapes_that_cannot_work_are_refused() {
        let nothing =
            refusal(parse_quote! { impl Mine { fn configure(config: ()) -> Result<Mine, String> { x } } });
        assert!(nothing.starts_with("a plugin needs at least one hook: `session_connected`"), "{nothing}");
        assert!(refusal(parse_quote! { impl Clone for Mine {} }).contains("trait"));
        assert!(refusal(parse_quote! { impl<T> Mine<T> {} }).contains("generic"));
        let asynchronous =
            parse_quote! { impl Mine { async fn cleanup(&self, c: &Context, e: &Cleanup) {} } };
        assert!(refusal(asynchronous).contains("not async"));
        let short = refusal(parse_quote! { impl Mine { fn cleanup(&self) {} } });
        assert_eq!(short, "expected `fn cleanup(&self, ctx: &Context, event: &Cleanup) -> HookResult`");
    }
}
