@echo off
rem Installs or upgrades ksefmirror as a service. Run it as administrator, from the unpacked folder.
setlocal
set "config=%ProgramData%\ksefmirror\config.toml"
net session >nul 2>&1
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
"%ProgramFiles%\ksefmirror\ksefmirror.exe" service start
