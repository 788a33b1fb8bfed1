// SPDX-License-Identifier: Apache-2.0
//
// Finds or builds the library that the crate stands on. The first that applies:
//
//   STILLMAP_LIB_DIR=DIR  libstillmap.a is there, and the headers in STILLMAP_INCLUDE_DIR: a build tree of CMake
//                         that is there already. Linked statically.
//   STILLMAP_SYSTEM=1     the installed library, by pkg-config: this minor version, this patch or later; shared.
//   STILLMAP_SYSTEM=static   the same, linked statically.
//   the source tree       two levels up, built by CMake (3.25, a C++20 compiler, simdjson). Linked statically.
//   neither               the crate stands alone: as STILLMAP_SYSTEM=1.
//
// The installed library is not looked for where the source tree is there: what is linked is then what stands
// beside the crate, on every machine.
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{exit, Command};

fn main() {
    for variable in ["STILLMAP_LIB_DIR", "STILLMAP_INCLUDE_DIR", "STILLMAP_SYSTEM", "PKG_CONFIG_PATH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux")
        || env::var("CARGO_CFG_TARGET_POINTER_WIDTH").as_deref() != Ok("64")
    {
        fail("stillmap is for Linux on 64-bit machines");
    }

    let source = Path::new(&variable("CARGO_MANIFEST_DIR")).join("../..");
    let include = if let Some(folder) = env::var_os("STILLMAP_LIB_DIR") {
        let folder = PathBuf::from(folder);
        println!("cargo:rerun-if-changed={}", folder.join("libstillmap.a").display());
        let include = env::var_os("STILLMAP_INCLUDE_DIR").map_or_else(|| source.join("include"), PathBuf::from);
        link_static(&folder, &folder.join("CMakeCache.txt"));
        include
    } else if let Some(how) = env::var_os("STILLMAP_SYSTEM").filter(|how| how != "0" && !how.is_empty()) {
        link_system(how == "static")
    } else if source.join("src/stillmap.map").exists() {
        build(&source)
    } else {
        link_system(false)
    };
    same_version(&include);
    // For the test that compares the declarations in src/ffi.rs with the header, and for crates that use this one.
    println!("cargo:rustc-env=STILLMAP_HEADER={}", include.join("stillmap/stillmap.h").display());
    println!("cargo:include={}", include.display());
}

/// Builds the static library alone, and gives the folder of the headers.
fn build(source: &Path) -> PathBuf {
    for part in ["CMakeLists.txt", "cmake", "include", "src"] {
        println!("cargo:rerun-if-changed={}", source.join(part).display());
    }
    let tree = Path::new(&variable("OUT_DIR")).join("cmake");
    let debug = variable("OPT_LEVEL") == "0" && variable("PROFILE") != "release";
    run(Command::new("cmake").arg("-S").arg(source).arg("-B").arg(&tree).args([
        // Optimised also below unoptimised Rust: the promise is about milliseconds that a writer waits.
        if debug { "-DCMAKE_BUILD_TYPE=RelWithDebInfo" } else { "-DCMAKE_BUILD_TYPE=Release" },
        "-DBUILD_SHARED_LIBS=OFF",
        "-DSTILLMAP_TESTS=OFF",
        "-DSTILLMAP_CLI=OFF",
        "-DSTILLMAP_PRELOAD=OFF",
    ]));
    run(Command::new("cmake")
        .arg("--build")
        .arg(&tree)
        .args(["--target", "stillmap_static", "--parallel"])
        .arg(env::var("NUM_JOBS").unwrap_or_else(|_| "1".into())));
    link_static(&tree, &tree.join("CMakeCache.txt"));
    source.join("include")
}

fn link_static(folder: &Path, cache: &Path) {
    if !folder.join("libstillmap.a").exists() {
        fail(&format!("there is no libstillmap.a in {}", folder.display()));
    }
    println!("cargo:rustc-link-search=native={}", folder.display());
    println!("cargo:rustc-link-lib=static=stillmap");
    // simdjson may lie outside the linker's own folders: CMake knows where, as .../lib/cmake/simdjson.
    let found = fs::read_to_string(cache).unwrap_or_default();
    let package = found.lines().find_map(|line| line.strip_prefix("simdjson_DIR:PATH="));
    if let Some(library) = package.and_then(|at| Path::new(at).ancestors().nth(2)) {
        if library.exists() {
            println!("cargo:rustc-link-search=native={}", library.display());
        }
    }
    println!("cargo:rustc-link-lib=dylib=simdjson");
    println!("cargo:rustc-link-lib=dylib=stdc++");
}

/// Links what pkg-config knows, and gives the folder of the headers.
fn link_system(statically: bool) -> PathBuf {
    let wanted = format!("stillmap >= {}", variable("CARGO_PKG_VERSION"));
    let ask = |arguments: &[&str]| -> Option<String> {
        let answer = Command::new("pkg-config").args(arguments).arg(&wanted).output().ok()?;
        answer.status.success().then(|| String::from_utf8_lossy(&answer.stdout).trim().to_string())
    };
    let libraries = ask(if statically { &["--libs", "--static"] } else { &["--libs"] }).unwrap_or_else(|| {
        fail(&format!(
            "pkg-config does not find {wanted}: install stillmap (cmake --install), or say where it is in \
             PKG_CONFIG_PATH, or build the crate within the source tree of stillmap"
        ))
    });
    for flag in libraries.split_whitespace() {
        if let Some(folder) = flag.strip_prefix("-L") {
            println!("cargo:rustc-link-search=native={folder}");
        } else if let Some(library) = flag.strip_prefix("-l") {
            let kind = if statically && library == "stillmap" { "static" } else { "dylib" };
            println!("cargo:rustc-link-lib={kind}={library}");
        }
    }
    PathBuf::from(ask(&["--variable=includedir"]).unwrap_or_else(|| "/usr/include".into()))
}

/// The interface is declared by hand in src/ffi.rs: it must be of this minor version.
fn same_version(include: &Path) {
    let header = include.join("stillmap/stillmap.h");
    let text = fs::read_to_string(&header)
        .unwrap_or_else(|error| fail(&format!("{} cannot be read: {error}", header.display())));
    let number = |name: &str| {
        text.lines()
            .find_map(|line| {
                line.strip_prefix("#define STILL_VERSION_")?.strip_prefix(name)?.trim().parse::<u32>().ok()
            })
            .unwrap_or_else(|| fail(&format!("no STILL_VERSION_{name} in {}", header.display())))
    };
    let there = (number("MAJOR"), number("MINOR"), number("PATCH"));
    let ours = |name: &str| variable(name).parse::<u32>().unwrap();
    let wanted = (ours("CARGO_PKG_VERSION_MAJOR"), ours("CARGO_PKG_VERSION_MINOR"), ours("CARGO_PKG_VERSION_PATCH"));
    if (there.0, there.1) != (wanted.0, wanted.1) || there.2 < wanted.2 {
        fail(&format!("the library is version {there:?}, the crate needs {wanted:?}"));
    }
}

fn run(command: &mut Command) {
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("{command:?}: {status}")),
        Err(error) => {
            fail(&format!("{command:?}: {error}. Building stillmap needs cmake, a C++20 compiler and simdjson"))
        }
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| fail(&format!("{name} is not set: build this with cargo")))
}

fn fail(why: &str) -> ! {
    eprintln!("stillmap: {why}");
    exit(1)
}
