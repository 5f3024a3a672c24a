@echo off
rem Installs or upgrades ksefmirror as a service. Run it as administrator, from the unpacked folder. With /q it does not wait
rem for a key at its end.
setlocal
call :install
set "result=%errorlevel%"
rem Started from the Explorer the window would close on what was said.
if /i not "%~1"=="/q" pause
exit /b %result%

:install
set "config=%ProgramData%\ksefmirror\config.toml"
rem Only an administrator may do the one or the other; the first needs a service of Windows that may be switched off.
net session >nul 2>&1
if errorlevel 1 fltmc >nul 2>&1
if errorlevel 1 (
	echo Run this as administrator: right-click it, then "Run as administrator".
	exit /b 1
)
if not exist "%config%" "%~dp0ksefmirror.exe" config init --service
if not exist "%config%" exit /b 1
rem Windows does not replace a program that runs.
"%~dp0ksefmirror.exe" service status >nul 2>&1
if not errorlevel 1 "%~dp0ksefmirror.exe" service stop
"%~dp0ksefmirror.exe" --config "%config%" service install
if errorlevel 1 exit /b 1
"%ProgramFiles%\ksefmirror\ksefmirror.exe" --config "%config%" service start
exit /b %errorlevel%
