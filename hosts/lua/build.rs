//! Builds Lua 5.4 and 5.5 twice each from the sources in the `lua-src` crate: as they are (libraries `plain_lua54` and
//! `plain_lua55`), and with `patches/lua54.patch` or `patches/lua55.patch` applied (`redmagic_lua54` and
//! `redmagic_lua55`). All have the same front end and the same flags.
//!
//! The C code is always compiled with -O2, whatever the cargo profile: the object of study is the machine code of a
//! stock Lua. Position-independent code is of the executable kind (-fPIE), as C compilers of today's distributions
//! make it by default: with -fPIC every anchor would fetch the address of `redmagic_active` first.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The flags of Lua's own makefile for Linux without a line editor, and line numbers for profilers.
const FLAGS: [&str; 9] =
    ["-std=gnu99", "-O2", "-g1", "-fPIE", "-fno-common", "-Wall", "-Wextra", "-DLUA_COMPAT_5_3", "-DLUA_USE_LINUX"];

/// The versions: the beginning of the folder's name inside `lua-src`, and what the patch and the libraries are called.
const VERSIONS: [(&str, &str); 2] = [("lua-5.4.", "lua54"), ("lua-5.5.", "lua55")];

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let include = here.parent().and_then(Path::parent).ok_or("no workspace around this package")?.join("include");
    for path in [here.join("csrc"), here.join("patches"), include.join("redmagic.h"), here.join("build.rs")] {
        println!("cargo:rerun-if-changed={}", path.display());
    }
    let package = lua_package(&here)?;
    for (folder, name) in VERSIONS {
        build(&here, &include, &out, &sources(&package, folder)?, name)?;
    }
    println!("cargo:rustc-link-search=native={}", out.display());
    for bin in ["redmagic-lua", "plain-lua", "redmagic-lua55", "plain-lua55"] {
        // C modules that scripts load resolve Lua's API in the executable.
        println!("cargo:rustc-link-arg-bin={bin}=-Wl,-E");
    }
    Ok(())
}

/// Builds one version without and with its patch.
fn build(here: &Path, include: &Path, out: &Path, stock: &Path, name: &str) -> Result<()> {
    let (plain, annotated) = (out.join(format!("plain-{name}")), out.join(format!("annotated-{name}")));
    copy(stock, &plain)?;
    copy(stock, &annotated)?;
    apply(&fs::read_to_string(here.join(format!("patches/{name}.patch")))?, &annotated)?;

    let front = here.join("csrc/front.c");
    let seed = here.join("csrc/seed.h");
    compile(&plain, &seed, std::slice::from_ref(&front))?.try_compile(&format!("plain_{name}"))?;
    let mut build = if env::var_os("CARGO_FEATURE_NOOP").is_some() {
        compile(&annotated, &seed, &[front, here.join("csrc/noop.c")])?
    } else {
        compile(&annotated, &seed, &[front])?
    };
    build.define("LUA_USE_REDMAGIC", None).include(include).try_compile(&format!("redmagic_{name}"))?;
    Ok(())
}

/// The folder of the `lua-src` crate. Only cargo knows where that is unpacked; it lists no package that it does not have, so
/// it fetches what other packages of the workspace need and nothing has needed yet.
fn lua_package(here: &Path) -> Result<PathBuf> {
    let output = Command::new(env::var_os("CARGO").ok_or("CARGO is not set")?)
        .args(["metadata", "--format-version=1", "--filter-platform", &env::var("TARGET")?, "--manifest-path"])
        .arg(here.join("Cargo.toml"))
        .output()?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata lists no packages")?;
    let package = packages.iter().find(|package| package["name"] == "lua-src").ok_or("no package lua-src")?;
    let manifest = package["manifest_path"].as_str().ok_or("lua-src has no manifest path")?;
    Ok(Path::new(manifest).parent().ok_or("lua-src has no folder")?.into())
}

/// The folder in `package` whose name begins with `folder`.
fn sources(package: &Path, folder: &str) -> Result<PathBuf> {
    for entry in fs::read_dir(package)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(folder)) {
            return Ok(path);
        }
    }
    Err(format!("no {folder} in {}", package.display()).into())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        fs::copy(&path, to.join(path.file_name().ok_or("a source without a name")?))?;
    }
    Ok(())
}

/// Applies a unified diff of several files whose names begin with `a/` and `b/`.
fn apply(patch: &str, to: &Path) -> Result<()> {
    for file in diffy::patch_set::PatchSet::parse(patch, diffy::patch_set::ParseOptions::unidiff()) {
        let file = file?;
        let diffy::patch_set::FileOperation::Modify { modified, .. } = file.operation().strip_prefix(1) else {
            return Err("the patch does more than change files".into());
        };
        let path = to.join(&*modified);
        let hunks = file.patch().as_text().ok_or("the patch is not text")?;
        let text =
            diffy::apply(&fs::read_to_string(&path)?, hunks).map_err(|error| format!("{}: {error}", path.display()))?;
        fs::write(&path, text)?;
    }
    Ok(())
}

/// Every C file of `sources` and `more`, ready to be compiled with the flags of this build alone. Each begins with the
/// header `seed`.
fn compile(sources: &Path, seed: &Path, more: &[PathBuf]) -> Result<cc::Build> {
    let mut build = cc::Build::new();
    build.no_default_flags(true).cargo_metadata(false).include(sources).files(more);
    for flag in FLAGS {
        build.flag(flag);
    }
    build.flag("-include").flag(seed);
    let mut files = Vec::new();
    for entry in fs::read_dir(sources)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "c") {
            files.push(path);
        }
    }
    // The order of the object files decides the layout of the code; folders are listed in any order.
    files.sort();
    Ok(build.files(files).clone())
}
