@echo off
rem Removes the service and the program. Run it as administrator. Configuration and invoices stay. With /q it does not wait for
rem a key at its end.
setlocal
call :uninstall
set "result=%errorlevel%"
rem Started from the Explorer the window would close on what was said.
if /i not "%~1"=="/q" pause
exit /b %result%

:uninstall
"%~dp0ksefmirror.exe" service uninstall
if errorlevel 1 exit /b 1
rd /s /q "%ProgramFiles%\ksefmirror"
echo The configuration is left in %ProgramData%\ksefmirror, the invoices in the folder that it names.
exit /b 0
