//! The attribute of presence-plugin: finds the hooks in an impl block and exports those, and only those.

use proc_macro::TokenStream;
use quote::{format_ident, quote};
use syn::{FnArg, Ident, ImplItem, ImplItemFn, ItemImpl, Type, parse_macro_input};

/// The hooks, and the type of the event each gets.
const HOOKS: [(&str, &str); 6] = [
    ("session_connected", "Session"),
    ("session_disconnected", "Disconnect"),
    ("cleanup", "Sweep"),
    ("user_online", "StatusChange"),
    ("user_idle", "StatusChange"),
    ("user_offline", "StatusChange"),
];

/// Makes a type a plugin. See the documentation of the crate presence-plugin.
///
/// The impl block holds hooks (`fn user_online(&self, context: &Context, event: &StatusChange) -> HookResult`, …) and perhaps
/// `fn configure(config: C) -> Result<Self, E>`; anything else in it is an error, so that a misspelt hook is noticed.
#[proc_macro_attribute]
pub fn plugin(_arguments: TokenStream, item: TokenStream) -> TokenStream {
    let block = parse_macro_input!(item as ItemImpl);
    let plugin = &block.self_ty;
    let mut exports = Vec::new();
    let mut errors = Vec::new();
    let mut configure = None;
    let mut hooks = 0;
    for item in &block.items {
        let ImplItem::Fn(function) = item else {
            let message =
                "only hooks and `configure` go into this block; put the rest into another impl block";
            errors.push(syn::Error::new_spanned(item, message));
            continue;
        };
        let name = function.sig.ident.to_string();
        if name == "configure" {
            match configure_export(function, plugin) {
                Ok(export) => configure = Some(export),
                Err(error) => errors.push(error),
            }
        } else if let Some((_, event)) = HOOKS.iter().find(|(hook, _)| *hook == name) {
            hooks += 1;
            exports.push(hook_export(&function.sig.ident, event, plugin));
        } else {
            let known = HOOKS.map(|(hook, _)| hook).join(", ");
            let message = format!(
                "`{name}` is not a hook; the hooks are {known}. Put other functions into another impl block"
            );
            errors.push(syn::Error::new(function.sig.ident.span(), message));
        }
    }
    if hooks == 0 && errors.is_empty() {
        let known = HOOKS.map(|(hook, _)| hook).join(", ");
        let message = format!("a plugin has at least one hook: {known}");
        errors.push(syn::Error::new_spanned(plugin, message));
    }
    let errors = errors.into_iter().map(|error| error.to_compile_error());
    let make = match &configure {
        // The host configures every guest before any hook.
        Some(_) => quote! {
            ::core::result::Result::Err(::presence_plugin::HookError::retry("the plugin was not configured"))
        },
        None => quote! { ::core::result::Result::Ok(<#plugin as ::core::default::Default>::default()) },
    };
    let configure = configure.into_iter();
    quote! {
        #block
        #(#errors)*
        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Export;
            ::std::thread_local! {
                static PLUGIN: ::std::cell::OnceCell<#plugin> = const { ::std::cell::OnceCell::new() };
            }
            fn with<R>(
                call: impl FnOnce(&#plugin) -> ::core::result::Result<R, ::presence_plugin::HookError>,
            ) -> ::core::result::Result<R, ::presence_plugin::HookError> {
                PLUGIN.with(|cell| {
                    if cell.get().is_none() {
                        ::presence_plugin::install_logging();
                        let made: ::core::result::Result<#plugin, ::presence_plugin::HookError> = #make;
                        let _ = cell.set(made?);
                    }
                    match cell.get() {
                        ::core::option::Option::Some(plugin) => call(plugin),
                        ::core::option::Option::None => {
                            ::core::result::Result::Err(::presence_plugin::HookError::retry("no plugin"))
                        }
                    }
                })
            }
            #(#exports)*
            #(#configure)*
        };
    }
    .into()
}

fn hook_export(hook: &Ident, event: &str, plugin: &Type) -> proc_macro2::TokenStream {
    let event = format_ident!("{event}");
    quote! {
        impl ::presence_plugin::bindings::#hook::exports::presence::plugin::#hook::Guest for Export {
            fn handle(
                context: ::presence_plugin::Context,
                event: ::presence_plugin::#event,
            ) -> ::presence_plugin::HookResult {
                with(|plugin: &#plugin| plugin.#hook(&context, &event))
            }
        }
        ::presence_plugin::bindings::#hook::export_hook!(
            Export with_types_in ::presence_plugin::bindings::#hook
        );
    }
}

fn configure_export(function: &ImplItemFn, plugin: &Type) -> syn::Result<proc_macro2::TokenStream> {
    let mut inputs = function.sig.inputs.iter();
    let (Some(FnArg::Typed(config)), None) = (inputs.next(), inputs.next()) else {
        let message = "`configure` takes one argument, the type that presence.toml's `config` is read into";
        return Err(syn::Error::new_spanned(&function.sig, message));
    };
    let config = &config.ty;
    Ok(quote! {
        impl ::presence_plugin::bindings::configure::exports::presence::plugin::configure::Guest for Export {
            fn configure(json: ::std::string::String) -> ::core::result::Result<(), ::std::string::String> {
                ::presence_plugin::install_logging();
                let config: #config = ::presence_plugin::serde_json::from_str(&json)
                    .map_err(|error| ::std::format!("config: {error}"))?;
                let made = <#plugin>::configure(config).map_err(|error| error.to_string())?;
                PLUGIN.with(|cell| { let _ = cell.set(made); });
                ::core::result::Result::Ok(())
            }
        }
        ::presence_plugin::bindings::configure::export_hook!(
            Export with_types_in ::presence_plugin::bindings::configure
        );
    })
}
