# Reads a formula with a stand-in for Homebrew's words, and prints what it says as JSON: formula.rb FILE
require "json"

class Formula
  FOUND = { "linux" => {}, "macos" => {} }
  class << self
    attr_reader :place

    %i[desc homepage license].each { |word| define_method(word) { |value| FOUND[word.to_s] = value } }

    def version(value) = FOUND["version"] = value
    def depends_on(_) = nil
    def test = nil

    def on_macos = within(FOUND["macos"]) { yield }
    def on_linux = yield
    def on_intel = within(FOUND["linux"]["x86_64"] = {}) { yield }
    def on_arm = within(FOUND["linux"]["aarch64"] = {}) { yield }

    def url(value, tag: nil, revision: nil)
      @place.merge!({ "url" => value, "tag" => tag, "revision" => revision }.compact)
    end

    def sha256(value) = @place["sha256"] = value

    def within(place)
      @place = place
      yield
    end
  end
end

load ARGV.fetch(0)
puts JSON.generate(Formula::FOUND)
