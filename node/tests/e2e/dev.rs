//! `swarmer dev`: a cluster in one command, and nothing left of it.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Instant,
};

use crate::common::{PATIENCE, binary, ended, get, http, until};

struct Dev {
    child: Child,
    temp: tempfile::TempDir,
    /// The path that stands in the command lines of its processes.
    folder: PathBuf,
    ingresses: Vec<String>,
}

impl Dev {
    fn start(arguments: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), arguments)
    }

    fn start_in(temp: tempfile::TempDir, arguments: &[&str]) -> Self {
        let mut child = Command::new(binary())
            .arg("dev")
            .args(arguments)
            // The nodes' folder goes under this one, where it can be looked for.
            .env("TMPDIR", temp.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let log = std::thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(Result::ok).collect::<Vec<_>>().join("\n")
        });
        let mut ingresses = Vec::new();
        let mut whole = String::new();
        for line in BufReader::new(child.stdout.as_mut().unwrap()).lines().map_while(Result::ok) {
            whole.push_str(&line);
            whole.push('\n');
            if let Some((_, rest)) = line.split_once("ingress http://") {
                ingresses.push(rest.split_whitespace().next().unwrap().to_owned());
            }
            if line.contains("Ctrl-C") {
                assert!(whole.contains("curl http://"), "{whole}");
                let folder = temp.path().to_owned();
                return Self { child, temp, folder, ingresses };
            }
        }
        let _ = child.wait();
        panic!("dev ended:\n{whole}\n{}", log.join().unwrap());
    }

    /// Processes of this cluster: those whose command line names its folder, and the janitor.
    fn processes(&self) -> Vec<PathBuf> {
        processes_of(&self.folder)
    }

    fn nothing_is_left(&self) {
        let start = Instant::now();
        loop {
            let processes = self.processes();
            let files: Vec<_> = std::fs::read_dir(self.temp.path()).unwrap().flatten().collect();
            let ports = self
                .ingresses
                .iter()
                .filter(|address| std::net::TcpStream::connect(address.as_str()).is_ok())
                .count();
            if processes.is_empty() && files.is_empty() && ports == 0 {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "left: {processes:?} {files:?} {ports} ports");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_serves_the_example_and_ctrl_c_leaves_nothing() {
    let mut dev = Dev::start(&[]);
    assert_eq!(dev.ingresses.len(), 3);
    for address in &dev.ingresses {
        let answer = get(&http(), &format!("http://{address}/hello")).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.text().starts_with("hello"), "{}", answer.text());
    }
    assert!(!dev.processes().is_empty());
    let status = Command::new("kill").args(["-INT", &dev.child.id().to_string()]).status().unwrap();
    assert!(status.success());
    assert!(dev.child.wait().unwrap().success());
    dev.nothing_is_left();
}

/// The node of `dev` that has this name, as a process.
fn node(dev: &Dev, folder: &std::path::Path, name: &str) -> Option<String> {
    let data = folder.join(name).to_string_lossy().into_owned();
    let of = |path: &PathBuf| {
        let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|argument| argument == data.as_bytes())
    };
    let path = dev.processes().into_iter().find(of)?;
    Some(path.file_name()?.to_string_lossy().into_owned())
}

fn signal(name: &str, pid: &str) {
    assert!(Command::new("kill").args([name, pid]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_dev_that_is_killed_comes_back_and_a_kept_folder_goes_on() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().canonicalize().unwrap().join("cluster");
    let temp = || tempfile::tempdir_in(base.path()).unwrap();
    let arguments = ["--dir", folder.to_str().unwrap(), "--nodes", "2"];
    let mut dev = Dev::start_in(temp(), &arguments);
    // Its processes are known by the folder, which is this one.
    dev.folder = folder.clone();
    let first = node(&dev, &folder, "node-2").unwrap();
    signal("-KILL", &first);
    let again = until("the node runs again", || async {
        node(&dev, &folder, "node-2").filter(|pid| *pid != first)
    })
    .await;
    let url = format!("http://{}/hello", dev.ingresses[1]);
    until("it serves again", || async {
        get(&http(), &url).await.ok().filter(|answer| answer.status == 200)
    })
    .await;
    assert_ne!(first, again);
    signal("-INT", &dev.child.id().to_string());
    assert!(dev.child.wait().unwrap().success());

    // A third node joins the cluster that is there, and the ports stay.
    let more = ["--dir", folder.to_str().unwrap()];
    let mut second = Dev::start_in(temp(), &more);
    second.folder = folder.clone();
    assert_eq!((second.ingresses.len(), &second.ingresses[..2]), (3, &dev.ingresses[..]));
    let refused = |arguments: &[&str], why: &str| {
        let output = Command::new(binary()).arg("dev").args(arguments).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains(why), "{told}");
    };
    // Nobody else uses it meanwhile, nor changes what is in it.
    let plan = || std::fs::read(folder.join("dev.json")).unwrap();
    let before = plan();
    refused(&more, "SW-NODE-DATA-DIR-LOCKED");
    assert_eq!(plan(), before);
    signal("-INT", &second.child.id().to_string());
    assert!(second.child.wait().unwrap().success());
    assert!(second.processes().is_empty());
    refused(&arguments, "--nodes 3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_dev_leaves_nothing() {
    let mut dev = Dev::start(&["--nodes", "2"]);
    assert!(!dev.processes().is_empty());
    dev.child.kill().unwrap();
    let _ = dev.child.wait();
    dev.nothing_is_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_dev_that_goes_away_stops_it_and_nothing_is_left() {
    let mut dev = Dev::start(&["--nodes", "1"]);
    assert!(!dev.processes().is_empty());
    // All is printed by now: it must notice without printing.
    drop(dev.child.stdout.take());
    assert_eq!(ended(&mut dev.child).code(), Some(141));
    dev.nothing_is_left();
}

#[test]
fn dev_without_a_reader_stops_quietly_and_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    for both in [false, true] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let errors = temp.path().join("errors");
        let mut command = Command::new(binary());
        command.args(["dev", "--nodes", "1"]).env("TMPDIR", temp.path()).stdin(Stdio::null());
        if both {
            command.stderr(writer.try_clone().unwrap());
        } else {
            command.stderr(std::fs::File::create(&errors).unwrap());
        }
        let mut dev = command.stdout(writer).spawn().unwrap();
        assert_eq!(ended(&mut dev).code(), Some(141));
        let said = std::fs::read_to_string(&errors).unwrap_or_default();
        assert!(!said.contains("panicked") && !said.contains("error"), "{said}");
        let _ = std::fs::remove_file(&errors);
        let left: Vec<_> = std::fs::read_dir(temp.path()).unwrap().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn dev_says_what_is_wrong_with_what_it_is_given() {
    let output = Command::new(binary()).args(["dev", "/no/such/app"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("/no/such/app"), "{text}");
    let output = Command::new(binary()).args(["dev", "--nodes", "99"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

/// Processes whose command line names this path.
fn processes_of(folder: &std::path::Path) -> Vec<PathBuf> {
    let folder = folder.to_string_lossy().into_owned();
    let names_it = |path: &PathBuf| {
        let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&folder)
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.map(|entry| entry.path()).filter(names_it).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_ends_with_dev_however_that_ends() {
    for signal in ["-TERM", "-KILL"] {
        let (app, temp) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let manifest = app.path().join("swarmer.toml");
        let file = manifest.display();
        // Two that go on for ever, the second a child of the first one's shell.
        let build = format!("touch begun; tail -f {file} & tail -f {file}; wait");
        let text = format!(
            "name = \"a\"\n[[function]]\nname = \"a\"\ncomponent = \"a.wasm\"\nbuild = \"{build}\"\n"
        );
        std::fs::write(&manifest, text).unwrap();
        let mut dev = Command::new(binary())
            .args(["dev", "--nodes", "1"])
            .arg(app.path())
            .env("TMPDIR", temp.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("the build has begun", || async {
            // `dev`, the shell and both of its children name the folder.
            let begun = app.path().join("begun").exists() && processes_of(app.path()).len() >= 4;
            begun.then_some(())
        })
        .await;
        let status = Command::new("kill").args([signal, &dev.id().to_string()]).status().unwrap();
        assert!(status.success());
        ended(&mut dev);
        until("nothing is left", || async {
            let files = std::fs::read_dir(temp.path()).unwrap().count();
            let left = processes_of(app.path()).len() + processes_of(temp.path()).len() + files;
            (left == 0).then_some(())
        })
        .await;
    }
}
