# An upstream in Rails: ruby rails.rb <webrick|puma> <port>. It answers "RAN <handler>" or "none".
require 'logger'
require 'action_controller/railtie'
class Lab < Rails::Application
  config.eager_load = false
  config.secret_key_base = 'x' * 64
  config.logger = Logger.new(File::NULL)
  config.hosts.clear
  routes.append do
    { '/cargo/load' => 'load', '/cargo/:id/tracking' => 'tracking', '/v1/generate' => 'generate', '/health' => 'health', '/v1/admin/*p' => 'admin', '/api/*p' => 'api', '/docs/*p' => 'docs', '/app/*p' => 'app' }.each do |path, name|
      match path, to: 'lab#run_it', via: :all, defaults: { name: name }
    end
    match '*p', to: 'lab#none', via: :all
    root to: 'lab#none'
  end
end
class LabController < ActionController::Base
  skip_forgery_protection raise: false
  def run_it; render plain: 'RAN ' + params[:name]; end
  def none; render plain: 'none'; end
end
Lab.initialize!
if ARGV[0] == 'puma'
  require 'rack/handler/puma'
  Rack::Handler::Puma.run(Lab, Host: '127.0.0.1', Port: ARGV[1].to_i, Silent: true, Threads: '2:2')
else
  require 'webrick'
  require 'rack/handler/webrick'
  Rack::Handler::WEBrick.run(Lab, Host: '127.0.0.1', Port: ARGV[1].to_i, Logger: WEBrick::Log.new(File::NULL), AccessLog: [])
end
