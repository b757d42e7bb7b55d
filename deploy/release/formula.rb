# deploy/release/release.sh puts in the version, the commit and the sums.
class CognitoAuthExporter < Formula
  desc "Amazon Cognito's user auth events as OTLP log records and Prometheus counters"
  homepage "@REPOSITORY@"
  version "@VERSION@"
  license "Apache-2.0"

  on_macos do
    url "@REPOSITORY@.git", tag: "v@VERSION@", revision: "@REVISION@"
    depends_on "rust" => :build
  end

  on_linux do
    on_intel do
      url "@REPOSITORY@/releases/download/v@VERSION@/cognito-auth-exporter-@VERSION@-x86_64-linux.tar.gz"
      sha256 "@X86_64_SHA256@"
    end
    on_arm do
      url "@REPOSITORY@/releases/download/v@VERSION@/cognito-auth-exporter-@VERSION@-aarch64-linux.tar.gz"
      sha256 "@AARCH64_SHA256@"
    end
  end

  def install
    if OS.mac?
      system "cargo", "install", *std_cargo_args
      mkdir "man"
      system bin/"cognito-auth-exporter", "man", "--output-dir", "man"
    else
      bin.install "cognito-auth-exporter"
    end
    man1.install Dir["man/*"]
    generate_completions_from_executable(bin/"cognito-auth-exporter", "completions")
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/cognito-auth-exporter --version")
    (testpath/"config.toml").write <<~TOML
      [[pools]]
      id = "eu-west-1_Example01"
      all_users = true
    TOML
    assert_match "eu-west-1_Example01", shell_output("#{bin}/cognito-auth-exporter config show")
  end
end
